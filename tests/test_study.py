"""The study command: refusals, and a whole study of two variants, resumed."""

import json

import numpy as np
import pytest

from configs import studies
from epsilon_vae.config import check
from epsilon_vae.evaluation import protocols
from epsilon_vae.evaluation.reconstructors import Decoding, Run
from epsilon_vae.models.build import build_networks
from epsilon_vae.parallel.mesh import make_mesh
from tests.helpers import read_metrics
from tests.processes import finish, start_alone

MODULE = "epsilon_vae.study"
MICRO = "tests.micro_study"  # the same, with smaller networks
FLAGS = (
    "--study=conditioning",
    "--num_steps=2",
    "--seeds=2",
    "--protocol=local,features=alexnet",
)


@pytest.mark.parametrize("scale", ["small", "paper"])
@pytest.mark.parametrize("name", studies.STUDIES)
def test_every_variant_can_run(name, scale):
    variants = studies.STUDIES[name](scale)
    assert len(variants) > 1
    for variant in variants.values():
        check(variant.config)
        build_networks(variant.config)


def test_variants_that_only_decode_otherwise_share_a_run():
    trained = studies.trained_as(studies.ladder("small"))
    assert trained == {name: name for name in trained} | {"g": "f"}
    assert studies.trained_as(studies.nfe("paper")) == dict.fromkeys(
        ("uniform", "reversed_log"), "uniform"
    )


def test_a_variant_decodes_as_its_own_config_says(finished_run):
    asked, mesh = protocols.parse("local"), make_mesh()
    found = {}
    for name, spacing in (("f-seed0", "uniform"), ("g-seed0", "reversed_log")):
        run = Run(
            str(finished_run),
            None,
            protocol=asked,
            mesh=mesh,
            decoding=Decoding(name, spacing, (3,)),
        )
        assert (run.name, run.metadata["spacing"]) == (name, spacing)
        assert run.autoencoder.config.flow.spacing == spacing
        assert run.nfes((1, 2)) == (3,)
        found[spacing] = run.decode(np.ones((1, 8, 8, 8), np.float32), 3, 0)
    assert (found["uniform"] != found["reversed_log"]).any()
    uniform = protocols.parse("local,spacing=uniform")
    run = Run(
        str(finished_run),
        None,
        protocol=uniform,
        mesh=mesh,
        decoding=Decoding("g-seed0", "reversed_log", (3,)),
    )
    np.testing.assert_array_equal(
        run.decode(np.ones((1, 8, 8, 8), np.float32), 3, 0), found["uniform"]
    )


@pytest.fixture(scope="module")
def study(run_module, tmp_path_factory):
    """Folder of a study of seconds, and what it printed."""
    workdir = tmp_path_factory.mktemp("study")
    out, _ = finish(run_module(MICRO, *FLAGS, f"--workdir={workdir}"))
    return workdir, out


def test_variants_are_trained_and_evaluated_side_by_side(study):
    workdir, out = study
    names = [f"{name}-seed{seed}" for seed in (0, 1) for name in ("concat", "adagn")]
    for name in names:
        rows = read_metrics(workdir / "runs" / name)
        assert [row["step"] for row in rows if row["loss/flow"]] == ["1", "2"]
        config = json.loads((workdir / "runs" / name / "config.json").read_text())
        assert config["seed"] == int(name[-1])
        assert config["model"]["decoder"]["conditioning"] == name.split("-")[0]
    rows = json.loads((workdir / "evaluation" / "results.json").read_text())["rows"]
    assert [(row["reconstructor"], row["nfe"]) for row in rows] == [(name, 2) for name in names]
    table = (workdir / "study.md").read_text()
    assert "| concat | 2 | 2 |" in table and table.count("*22.0") == 2
    assert out.splitlines()[-1] == f"{workdir}/study.md"


def test_what_is_trained_is_not_trained_again(study, run_module):
    workdir, _ = study
    before = (workdir / "runs" / "concat-seed0" / "metrics.csv").stat().st_mtime_ns
    out, _ = finish(run_module(MICRO, *FLAGS, f"--workdir={workdir}"))
    assert "steps" not in out
    assert (workdir / "runs" / "concat-seed0" / "metrics.csv").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--study=ladders", "--num_steps=2"), "--study=ladders: there are ladder, conditioning"),
        (("--study=ladder",), "--num_steps or --budget: one of them says how long to train"),
        (("--study=ladder", "--num_steps=2", "--budget=9"), "--num_steps or --budget: one of them"),
        (("--study=ladder", "--num_steps=2", "--data=nowhere"), "nowhere/train: no such folder"),
        (("--study=ladder", "--num_steps=2", "--resolution=33"), "the networks take multiples of"),
    ],
)
def test_refusal_is_one_line(run_module, tmp_path, arguments, words):
    process = run_module(MODULE, *arguments, f"--workdir={tmp_path}/study")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2 and "Traceback" not in err, err
    [line] = [line for line in err.splitlines() if line.startswith("epsilon_vae: ")]
    assert words in line


def test_other_flags_on_the_same_folder_are_refused(tmp_path):
    asked = {
        "study": "conditioning",
        "scale": "small",
        "data": None,
        "resolution": None,
        "seeds": 2,
        "num_steps": 5,
        "budget": None,
    }
    (tmp_path / "study.json").write_text(json.dumps({"asked": asked, "num_steps": 5}))
    process = start_alone(MODULE, *FLAGS, f"--workdir={tmp_path}")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2
    words = "study.json: was started with num_steps = 5, now it is 2; take another --workdir"
    assert words in err
