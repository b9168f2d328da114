"""Wrong commands: each is one line that says what is wrong, code 2, and leaves nothing behind."""

import contextlib
import os
import re
import runpy
import shutil
import subprocess
import sys

import pytest

from epsilon_vae.__main__ import COMMANDS
from tests.processes import ROOT

TRAIN = "epsilon_vae.main"
RECONSTRUCT = "epsilon_vae.reconstruct"
EVALUATE = "epsilon_vae.evaluate"
ENCODE = "epsilon_vae.encode"
GENERATE = "epsilon_vae.generate"
CONVERT = "epsilon_vae.convert"
EXPORT = "epsilon_vae.export"
COMPILE = "epsilon_vae.compile"
STUDY = "epsilon_vae.study"
PREPARE = "epsilon_vae.data.prepare"
CHECK = "epsilon_vae.data.check"
PRETRAINED = "epsilon_vae.pretrained"

# {0} is an empty folder, {1} the folder of a run, {2} a file that is a text, {3}
# another empty folder, {4} a copy of the run that may be written to.
TINY = "--config=configs/tiny.py", "--workdir={0}/run"
RUN = ("--workdir={1}",)
OUT = ("--output={0}/out",)
WRONG = [
    (TRAIN, (), "--config is missing"),
    (TRAIN, ("--config=configs/tiny.py",), "--workdir is missing"),
    (TRAIN, ("--config=tinny", "--workdir={0}/run"), "did you mean tiny"),
    (TRAIN, ("--config=configs/tinny.py", "--workdir={0}/run"), "did you mean tiny"),
    (TRAIN, ("--config={0}/none.py", "--workdir={0}/run"), "no such file"),
    (TRAIN, ("--config={0}", "--workdir={0}/run"), "{0}"),
    (TRAIN, ("--config={2}", "--workdir={0}/run"), "--config"),
    (TRAIN, ("--config=tiny:x", "--workdir={0}/run"), "--config"),
    (TRAIN, ("--config=sd:q", "--workdir={0}/run"), "decoder.size = 'q'"),
    (TRAIN, ("--config=", "--workdir={0}/run"), "--config= is empty"),
    (TRAIN, ("--config=tiny", "--workdir="), "--workdir= is empty"),
    (TRAIN, ("--config=tiny", "--workdir={2}"), "{2}"),
    (TRAIN, ("--config=tiny", "--workdir={0}/a[1]"), "a[1]"),
    (TRAIN, (*TINY, "{0}/run"), "is not a flag"),
    (TRAIN, (*TINY, "--num_steps=10"), "did you mean --config.num_steps"),
    (TRAIN, (*TINY, "--batch_size=10"), "did you mean --config.batch_size"),
    (TRAIN, (*TINY, "--lr=1"), "--config.optim.lr"),
    (TRAIN, (*TINY, "--wrkdir=x"), "wrkdir"),
    (TRAIN, (*TINY, "--config.num_step=10"), "did you mean num_steps"),
    (TRAIN, (*TINY, "--config.lr=10"), "did you mean optim.lr"),
    (TRAIN, (*TINY, "--config.num_steps=many"), "config.num_steps"),
    (TRAIN, (*TINY, "--config.num_steps=1.5"), "config.num_steps"),
    (TRAIN, (*TINY, "--config.num_steps=-1"), "config.num_steps"),
    (TRAIN, (*TINY, "--config.num_steps"), "config.num_steps"),
    (TRAIN, (*TINY, "--config.batch_size=0"), "config.batch_size"),
    (TRAIN, (*TINY, "--config.dtype=float17"), "config.dtype"),
    (TRAIN, (*TINY, "--config.loss.gan=none_such"), "config.loss.gan"),
    (TRAIN, (*TINY, "--config.data.source=imagenet"), "config.data.source"),
    (TRAIN, (*TINY, "--config.data.source=folder"), "config.data.path"),
    (TRAIN, (*TINY, "--config.data.source=folder", "--config.data.path={0}/no"), "{0}/no"),
    (TRAIN, (*TINY, "--config.data.source=folder", "--config.data.path={3}"), "{3}"),
    (TRAIN, (*TINY, "--config.data.source=array_record", "--config.data.path={0}"), "{0}"),
    (TRAIN, (*TINY, "--config.data.resolution=63"), "config.data.resolution"),
    (TRAIN, (*TINY, "--config.mesh.fsdp=7"), "fsdp = 7"),
    (TRAIN, (*TINY, "--config.init_from={0}/no"), "{0}/no"),
    (TRAIN, (*TINY, "--config.model.latent_diffusion.size=xl"), "latent_diffusion"),
    (TRAIN, (*TINY, "--process_id=1"), "coordinator_address"),
    (TRAIN, (*TINY, "--startup_timeout_seconds=0"), "startup_timeout_seconds"),
    (TRAIN, ("--config=tests/micro.py", "--workdir={4}", "--config.model.encoder.n_z=4"), "n_z: 8"),
    (RECONSTRUCT, ("{2}",), "--output is missing"),
    (RECONSTRUCT, (*RUN, "--model=small", "{2}", *OUT), "--workdir and --model"),
    (RECONSTRUCT, ("{2}", *OUT, "--checkpoint_step=3"), "--checkpoint_step is of a run"),
    (RECONSTRUCT, ("{2}", *OUT, "--model=smal"), "smal: neither a folder nor a model"),
    (RECONSTRUCT, (*RUN, "{2}"), "--output is missing"),
    (RECONSTRUCT, ("--workdir={0}/no", "{2}", *OUT), "--workdir={0}/no: no such folder"),
    (RECONSTRUCT, ("--workdir={2}", "{2}", *OUT), "--workdir={2}: no such folder"),
    (RECONSTRUCT, ("--workdir={0}", "{2}", *OUT), "{0}"),
    (RECONSTRUCT, (*RUN, *OUT), "no picture named"),
    (RECONSTRUCT, (*RUN, "{0}/no.png", *OUT), "{0}/no.png: no such file or folder"),
    (RECONSTRUCT, (*RUN, "{0}", *OUT), "{0}"),
    (RECONSTRUCT, (*RUN, "{2}", "--output={0}/a.gif"), "--output"),
    (RECONSTRUCT, (*RUN, "{2}", "--output={2}"), "{2}"),
    (RECONSTRUCT, (*RUN, "{2}", *OUT, "--steps=0"), "--steps=0"),
    (RECONSTRUCT, (*RUN, "{2}", *OUT, "--steps=1,3"), "--steps=1,3"),
    (RECONSTRUCT, (*RUN, "{2}", *OUT, "--checkpoint_step=7"), "7"),
    (RECONSTRUCT, (*RUN, "{2}", *OUT, "--space=3"), "3"),
    (EVALUATE, RUN, "--output is missing"),
    (EVALUATE, OUT, "--workdir is missing"),
    (EVALUATE, ("--workdir={0}/no", *OUT), "--workdir={0}/no: no such folder"),
    (EVALUATE, (*RUN, *OUT, "--protocol=papper"), "papper"),
    (EVALUATE, (*RUN, *OUT, "--protocol=local,crop=round"), "crop"),
    (EVALUATE, (*RUN, *OUT, "--steps=a"), "--steps=a"),
    (EVALUATE, (*RUN, *OUT, "--steps=1,1"), "--steps=1,1"),
    (EVALUATE, (*RUN, *OUT, "--resolutions=0"), "--resolutions=0"),
    (EVALUATE, (*RUN, *OUT, "{0}"), "is not a flag"),
    (EVALUATE, (*OUT, "--compare"), "--compare"),
    (EVALUATE, (*OUT, "--samples={0}"), "--samples and --reference"),
    (EVALUATE, (*OUT, *RUN, "--samples={0}", "--reference={0}"), "one of them at a time"),
    (EVALUATE, (*OUT, "--protocol=local", "--samples={0}", "--reference={0}"), "{0}"),
    (EVALUATE, (*OUT, *RUN, "--protocol=local", "--data={0}/no"), "{0}/no"),
    (ENCODE, (*RUN, *OUT), "--data is missing"),
    (ENCODE, (*RUN, *OUT, "--data={0}/no"), "{0}/no"),
    (ENCODE, (*RUN, "--data=photos", "--output=gs://bucket"), "gs://bucket"),
    (ENCODE, (*RUN, *OUT, "--data=photos", "--crop=round"), "crop"),
    (GENERATE, (*RUN, *OUT), "{1}"),
    (GENERATE, (*RUN, *OUT, "--guidance_interval=1"), "--guidance_interval=1"),
    (GENERATE, (*RUN, *OUT, "--num=0"), "--num=0"),
    (CONVERT, RUN, "--from=FILE or --to=FILE"),
    (CONVERT, ("--from={0}/no.safetensors", "--workdir={0}/run"), "{0}/no.safetensors"),
    (CONVERT, ("--from={2}", "--workdir={0}/run"), "{2}"),
    (CONVERT, (*RUN, "--to={2}"), "{2}"),
    (CONVERT, ("--from={2}", "--to={2}", *RUN), "one of them"),
    (EXPORT, RUN, "--output is missing"),
    (EXPORT, (*RUN, *OUT, "--what=noise"), "--what=noise"),
    (EXPORT, (*RUN, "--output={0}"), "{0}"),
    (COMPILE, ("--config=tiny",), "--topology is missing"),
    (COMPILE, ("--config=tiny", "--topology=v9:1x1"), "v9"),
    (STUDY, ("--study=ladder", "--workdir={0}/study"), "--num_steps or --budget"),
    (STUDY, ("--study=stairs", "--workdir={0}/study", "--num_steps=1"), "stairs"),
    (PREPARE, ("{0}", *OUT), "--split is missing"),
    (PREPARE, ("{0}/no", *OUT, "--split=train"), "{0}/no"),
    (PREPARE, ("{2}", *OUT, "--split=train"), "{2}"),
    (PREPARE, ("{0}", *OUT, "--split=test"), "split"),
    (CHECK, (), "name"),
    (CHECK, ("{0}/no",), "{0}/no"),
    (PRETRAINED, ("--from={2}",), "--get"),
    (PRETRAINED, ("--get=inceptoin",), "inceptoin"),
]


@pytest.fixture
def places(tmp_path, tmp_path_factory, finished_run) -> tuple[str, ...]:
    text = tmp_path / "text.png"
    text.write_text("no picture")
    (tmp_path / "empty").mkdir()
    (tmp_path / "nothing").mkdir()
    copy = tmp_path_factory.getbasetemp() / "copied_run"
    if not copy.exists():
        shutil.copytree(finished_run, copy)
    empty, nothing = str(tmp_path / "empty"), str(tmp_path / "nothing")
    return empty, str(finished_run), str(text), nothing, str(copy)


@pytest.mark.parametrize(
    ("module", "arguments", "words"),
    WRONG,
    ids=[f"{module.split('.')[-1]} {' '.join(arguments)}" for module, arguments, _ in WRONG],
)
def test_is_one_line_and_code_2(run_module, places, module, arguments, words):
    process = run_module(module, *(argument.format(*places) for argument in arguments))
    out, err = process.communicate(timeout=300)
    out = re.sub(r"^Running on .*\n", "", out)  # which a training run begins with
    assert (process.returncode, out, len(err.splitlines())) == (2, "", 1), (out, err)
    assert err.startswith("epsilon_vae: ") and words.format(*places) in err
    assert not os.listdir(places[0])


QUICK = """
import runpy, sys
module, *arguments = sys.argv[1:]
sys.argv = [module, *arguments]
try:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
except SystemExit as end:
    heavy = {"jax", "orbax", "grain", "scipy", "flax", "tensorflow"} & sys.modules.keys()
    sys.exit(f"imported {heavy}" if heavy else end.code)
"""


@pytest.mark.parametrize("name", sorted({"main", *(module for module, _ in COMMANDS.values())}))
def test_help_and_typos_are_answered_before_libraries_are_imported(name):
    """In milliseconds, that is, and not in the seconds that the libraries take."""
    for flag, code in (("--help", 0), ("--no_such_flag", 2)):
        done = subprocess.run(
            [sys.executable, "-c", QUICK, f"epsilon_vae.{name}", flag],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == code, done.stderr
        if code == 0:
            assert "--config.KEY=VALUE" in done.stdout or "--config:" not in done.stdout
            assert done.stdout.count("absl") == 0


def test_wrong_paths_are_answered_before_libraries_are_imported(places):
    paths = [
        (TRAIN, "--config=tinny", f"--workdir={places[0]}/x"),
        (RECONSTRUCT, "--workdir=/nowhere", "a.png", "--output=b.png"),
        (ENCODE, "--workdir=/nowhere", "--data=photos", "--output=b"),
        (GENERATE, "--workdir=/nowhere", "--output=b"),
        (EXPORT, "--workdir=/nowhere", "--output=b"),
    ]
    for command in paths:
        done = subprocess.run(
            [sys.executable, "-c", QUICK, *command],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 2, done.stderr


def test_one_command_has_all_others(monkeypatch, capsys):
    for arguments, code, words in (
        ([], None, COMMANDS),
        (["--help"], None, COMMANDS),
        (["--version"], None, ["epsilon-vae "]),
        (["trian"], 2, ["'trian': no such command; did you mean train?", "pretrained"]),
    ):
        monkeypatch.setattr(sys, "argv", ["epsilon-vae", *arguments])
        with pytest.raises(SystemExit) if code else contextlib.nullcontext():
            runpy.run_module("epsilon_vae", run_name="__main__")
        out, err = capsys.readouterr()
        assert all(word in out + err for word in words)


def test_configs_are_found_from_any_folder(tmp_path):
    environment = {"PYTHONPATH": str(ROOT)}
    for config in ("tiny", f"{ROOT}/configs/tiny.py", "sd:m,f=16"):
        done = subprocess.run(
            [sys.executable, "-m", "epsilon_vae", "train", f"--config={config}", "--num_steps=1"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env=os.environ | environment,
            timeout=60,
        )
        assert done.returncode == 2 and "did you mean --config.num_steps" in done.stderr
