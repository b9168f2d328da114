"""The loop as real processes: killed, stopped, broken, resumed."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from epsilon_vae.checkpoint import Checkpointer, CheckpointError
from epsilon_vae.data.sources import Photos
from epsilon_vae.run import captions
from epsilon_vae.run.initialize import load_init_weights
from epsilon_vae.run.monitor import MetricsWindow, NonFiniteError
from epsilon_vae.versions import versions
from tests.helpers import (
    FLOW_ALONE,
    QUICK_FLAGS,
    STEPS,
    assert_same_state,
    flags,
    load_state,
    read_metrics,
    saved_steps,
    state_shapes,
)
from tests.processes import finish, read_until, start_alone


def test_workdir_holds_what_users_script_against(finished_run_and_output):
    workdir, out = finished_run_and_output
    config = json.loads((workdir / "config.json").read_text())
    assert config["num_steps"] == STEPS and config["optim"]["ema_decay"] == 0.8
    versions = json.loads((workdir / "versions.json").read_text())
    assert {"git_commit", "python", "jax", "flax"} <= versions.keys()
    table = (workdir / "parameters.txt").read_text()
    assert all(f"{name}/conv" in table for name in ("encoder", "decoder", "discriminator"))
    rows = read_metrics(workdir)
    assert [int(row["step"]) for row in rows] == [*range(1, STEPS + 1), STEPS]
    assert all(float(row["loss/flow"]) > 0 for row in rows[:-1])
    assert {"eval/psnr", "eval/ssim", "eval/lpips_alexnet"} <= rows[-1].keys()
    assert 3 < float(rows[-1]["eval/psnr"]) < 50
    for row in rows[:-1]:
        assert 0 < float(row["step_seconds"]) <= float(row["step_seconds_max"])
        assert 0 <= float(row["goodput_percent"]) < 100 and float(row["memory/host_peak"]) > 0.1
    assert json.loads((workdir / "heartbeat.json").read_text())["step"] == STEPS
    assert "decoder/conv_in/kernel" in (workdir / "sharding.txt").read_text()
    grid = Image.open(workdir / "samples" / f"{STEPS:08d}.png")
    # Original, NFE 1, NFE 3; three held-out photos: of 32 px, five times as large.
    assert grid.size == (3 * 160 + 2 * captions.GAP + 16, 3 * (160 + captions.LINE) + 52)
    assert sorted(p.name for p in (workdir / "checkpoints").iterdir()) == ["4", "6"]
    assert list(workdir.glob("events.out.tfevents.*"))
    (trace,) = workdir.glob("plugins/profile/*/*.xplane.pb")
    assert b"jit_step" in trace.read_bytes()
    assert "step 6/6" in out and "img/s" in out and "wait" in out and "ETA" in out


def test_first_lines_say_where_and_the_last_what_to_do(
    finished_run_and_output, run_module, tmp_path
):
    """The commands are run as they are written; what they write goes elsewhere."""
    workdir, out = finished_run_and_output
    lines = out.splitlines()
    assert re.fullmatch(r"Running on \d+ CPU cores?", lines[0])
    assert sum(line.startswith("  disc ") for line in lines) == 1
    assert any(line.startswith("Compiling the step: half a minute for tiny") for line in lines)
    assert all(len(line) <= 100 for line in lines if str(workdir) not in line)
    scores = [line for line in lines if line.startswith(f"step {STEPS}: held-out photos, NFE 3: ")]
    last = lines.index(next(line for line in lines if line.startswith(f"Step {STEPS} is saved, ")))
    psnr = float(re.search(r"PSNR \(dB\) ([0-9.]+)", scores[0])[1])
    assert f"  PSNR (dB)      {psnr:.4g}, best {psnr:.4g} at step {STEPS}" in lines[last:]
    assert f"  samples        {workdir}/samples" in lines[last:]
    assert f"  checkpoints    {workdir}/checkpoints: {STEPS}, the newest" in lines[last:]
    photo = tmp_path / "photo.jpg"
    Image.open(Photos("val").paths[0]).convert("RGB").resize((32, 32)).save(photo)
    reconstruct, evaluate = (shlex.split(line) for line in lines[-2:])
    reconstruct[reconstruct.index("photo.jpg")] = str(photo)
    for python, m, module, *arguments in (reconstruct, evaluate):
        assert (python, m) == ("python", "-m")
        arguments = [x for x in arguments if not x.startswith("--output=")]
        arguments.append(f"--output={tmp_path}/{module}.png")
        finish(run_module(module, *arguments, **QUICK_FLAGS))


def test_best_checkpoint_survives_what_came_after_and_resuming(run_module, tmp_path):
    """A step that is evaluated as the best is saved, though no save is due; a rate of 10 spoils."""
    more = (*FLOW_ALONE, "--config.checkpoint.keep=1", "--config.checkpoint.keep_best=psnr")
    more += ("--config.checkpoint.every_steps=100", "--config.eval.every_steps=1")
    for num_steps, rate in ((2, "5e-3"), (5, "10")):
        changes = f"--config.num_steps={num_steps}", f"--config.optim.lr={rate}"
        process = run_module("epsilon_vae.main", *flags(tmp_path, *more, *changes), **QUICK_FLAGS)
        out, _ = finish(process)
    scores = {int(row["step"]): row["eval/psnr"] for row in read_metrics(tmp_path)}
    best = max(scores, key=lambda step: float(scores[step]))
    assert best < 5 and saved_steps(tmp_path) == [best, 5]
    assert f"checkpoints: 5, the newest; {best}, the best by psnr" in out
    assert f"best {float(scores[best]):.4g} at step {best}" in out
    assert out.splitlines()[-1].endswith(f" --checkpoint_step={best}")


def test_commit_where_there_is_no_git(monkeypatch):
    """As in an image of launch/Dockerfile."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("GIT_COMMIT", "0123")
    assert versions()["git_commit"] == "0123"


def test_killed_run_ends_in_the_same_bits(finished_run, run_module, tmp_path):
    """Begun with workers, which end with it; resumed with none."""
    process = run_module("epsilon_vae.main", *flags(tmp_path, "--config.data.workers=2"))
    read_until(process, "step 5/")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    for _ in range(300):
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    else:
        raise AssertionError("worker processes are left")
    assert not (tmp_path / "checkpoints" / str(STEPS)).exists()
    out, _ = finish(run_module("epsilon_vae.runs", str(tmp_path)))
    assert out.splitlines()[1].split()[3] == "failed"
    out, _ = finish(run_module("epsilon_vae.main", *flags(tmp_path)))
    assert "Resuming from step" in out
    assert_same_state(tmp_path, finished_run)
    steps = [int(row["step"]) for row in read_metrics(tmp_path)]
    assert steps == [*range(1, STEPS + 1), STEPS]  # no step twice, none missing


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 0)])
def test_stopped_run_saves_and_says_how_to_go_on(finished_run, run_module, tmp_path, number, code):
    """Terminals and launchers signal the workers too. Launchers start again what ends with 75."""
    process = run_module("epsilon_vae.main", *flags(tmp_path, "--config.data.workers=1"))
    read_until(process, "step 1/")
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, err[-2000:]
    ended = {75: "preempted", 0: "stopped"}[code]
    assert json.loads((tmp_path / "heartbeat.json").read_text())["ended"] == ended
    assert "run the same command again" in out
    saved = max(int(p.name) for p in (tmp_path / "checkpoints").iterdir())
    assert 1 <= saved < STEPS
    out, _ = finish(run_module("epsilon_vae.main", *flags(tmp_path)))
    assert f"Resuming from step {saved}" in out
    assert_same_state(tmp_path, finished_run)


def test_damaged_newest_checkpoint_falls_back(finished_run, run_module, tmp_path):
    """Data files cut short, as a full disk or a dying host leaves them."""
    shutil.copytree(finished_run / "checkpoints", tmp_path / "checkpoints")
    for file in (tmp_path / "checkpoints" / str(STEPS) / "state").rglob("*"):
        if file.is_file() and file.stat().st_size > 1000:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    out, err = finish(run_module("epsilon_vae.main", *flags(tmp_path)))
    assert "Resuming from step 4" in out
    assert f"Checkpoint {STEPS} is damaged" in err
    assert_same_state(tmp_path, finished_run)
    assert list((tmp_path / "checkpoints" / "damaged").iterdir())


def test_half_written_checkpoint_is_left_out(finished_run, run_module, tmp_path):
    """A step directory that has lost its items is not taken for a checkpoint."""
    shutil.copytree(finished_run / "checkpoints", tmp_path / "checkpoints")
    shutil.rmtree(tmp_path / "checkpoints" / str(STEPS) / "state")
    out, _ = finish(run_module("epsilon_vae.main", *flags(tmp_path)))
    assert "Resuming from step 4" in out
    assert_same_state(tmp_path, finished_run)


def test_another_network_names_the_key_that_differs(finished_run, run_module, tmp_path):
    shutil.copytree(finished_run / "checkpoints", tmp_path / "checkpoints")
    more = "--config.model.encoder.n_z=4", "--config.num_steps=7"
    process = run_module("epsilon_vae.main", *flags(tmp_path, *more))
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2 and "Traceback" not in err
    assert len(err.splitlines()) == 1
    assert "checkpoints/6 is of another network: model.encoder.n_z: 8 -> 4; set it back" in err


def test_finished_run_says_so_and_writes_nothing(finished_run, run_module):
    def files() -> dict:
        return {path: path.stat().st_mtime_ns for path in finished_run.rglob("*")}

    before = files()
    process = run_module("epsilon_vae.main", *flags(finished_run, "--config.batch_size=2"))
    out, _ = finish(process)
    assert len(out.splitlines()) == 1 and f"has step {STEPS}" in out and "larger" in out
    assert files() == before


ENDLESS = (*FLOW_ALONE, "--config.num_steps=100000", "--config.checkpoint.every_steps=100000")


def workers_of(process) -> list[int]:
    """Processes of grain that load a run's batches."""
    lists = (path.read_text() for path in Path(f"/proc/{process.pid}/task").glob("*/children"))
    children = [int(child) for text in lists for child in text.split()]
    return [x for x in children if "spawn_main" in Path(f"/proc/{x}/cmdline").read_text()]


def test_second_run_is_refused_killed_worker_saves_lost_stdout_and_hangup_too(run_module, tmp_path):
    arguments = flags(tmp_path, *ENDLESS)
    process = run_module("epsilon_vae.main", *arguments, "--config.data.workers=2", **QUICK_FLAGS)
    read_until(process, "step 2/")
    second = run_module("epsilon_vae.main", *arguments)
    out, err = second.communicate(timeout=300)
    assert second.returncode == 2 and len(err.splitlines()) == 1 and not out
    assert (
        f"{tmp_path}: a run is training here since" in err and f"(process {process.pid} on" in err
    )

    os.kill(workers_of(process)[0], signal.SIGKILL)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1 and "Traceback" not in err
    assert "config.data.workers = 2: one of them was killed" in err
    (saved,) = saved_steps(tmp_path)
    assert f"after step {saved}: " in err and f"Step {saved} is saved; to resume" in err

    process = run_module("epsilon_vae.main", *arguments, "--config.data.workers=1", **QUICK_FLAGS)
    read_until(process, "Resuming from step")
    process.stdout.close()
    while int(read_metrics(tmp_path)[-1]["step"]) < saved + 3:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    for _ in range(2):  # the terminal's, and its shell's
        os.killpg(process.pid, signal.SIGHUP)
    assert process.wait(300) == 75
    assert process.stderr.read() == ""
    assert saved_steps(tmp_path)[-1] > saved + 2
    steps = [int(row["step"]) for row in read_metrics(tmp_path)]
    assert steps == [*range(1, saved_steps(tmp_path)[-1] + 1)]


def test_interrupt_before_the_first_step_ends_at_once(run_module, tmp_path):
    """While it imports, and while it compiles, where Python hears nothing."""
    process = start_alone("epsilon_vae.main", *flags(tmp_path))
    while "jaxlib" not in Path(f"/proc/{process.pid}/maps").read_text():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == -signal.SIGINT
    process = run_module("epsilon_vae.main", *flags(tmp_path))
    read_until(process, "Training from the start")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT and "\nstep 1" not in out and "Traceback" not in err


@pytest.fixture
def small_disk(tmp_path):
    """Makes a disk of so many MB; where that is not allowed, the test is skipped."""
    disks = []

    def make(size: int) -> Path:
        disk = tmp_path / f"disk{len(disks)}"
        disk.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}m", "none", str(disk)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("cannot mount a disk")
        disks.append(disk)
        return disk

    yield make
    for disk in disks:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_full_disk_is_said_before_the_first_step_or_at_the_save(run_module, small_disk):
    cache = {"JAX_COMPILATION_CACHE_DIR": str(small_disk(500))}
    more = *FLOW_ALONE, "--config.num_steps=1000", "--config.checkpoint.keep=2"
    process = run_module("epsilon_vae.main", *flags(small_disk(1), *more), **QUICK_FLAGS, **cache)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2 and len(err.splitlines()) == 1
    assert "no space for 3 checkpoints of" in err

    disk = small_disk(100)
    process = run_module("epsilon_vae.main", *flags(disk, *more), **QUICK_FLAGS, **cache)
    read_until(process, "step 5/")
    with pytest.raises(OSError, match="No space left"):
        (disk / "ballast").write_bytes(bytes(2**27))
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1 and len(err.splitlines()) == 1, err[-500:]
    assert "No space left on device" in err and "the disk has" in err
    (disk / "ballast").unlink()
    newest = saved_steps(disk)[-1]
    more = *more, f"--config.num_steps={newest + 2}"
    out, _ = finish(run_module("epsilon_vae.main", *flags(disk, *more), **QUICK_FLAGS, **cache))
    assert f"Resuming from step {newest} " in out
    steps = [int(row["step"]) for row in read_metrics(disk)]
    assert steps == [*range(1, newest + 3), newest + 2]


@pytest.mark.parametrize("log_every", [1, 100])
def test_non_finite_loss_stops_before_it_is_saved(run_module, tmp_path, log_every):
    """A rate of 1e30 makes the second step's loss infinite or NaN, whether or not it is logged."""
    process = run_module(
        "epsilon_vae.main",
        *flags(
            tmp_path, *FLOW_ALONE, "--config.optim.lr=1e30", "--config.checkpoint.every_steps=1"
        ),
        f"--config.log.every_steps={log_every}",
        **QUICK_FLAGS,
    )
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1 and "Traceback" not in err
    assert "epsilon_vae: step 2: " in err and "loss/flow = " in err
    assert saved_steps(tmp_path) == [1]
    assert json.loads((tmp_path / "heartbeat.json").read_text())["ended"] == "failed"


def test_bad_record_stops_the_run_or_is_left_out(run_module, tmp_path):
    """A photo cut in half among six; epochs come round, the log names it once."""
    for split, photos in (("train", Photos("train")), ("val", Photos("val"))):
        (tmp_path / split).mkdir()
        for path in photos.paths[:6]:
            Image.open(path).convert("RGB").resize((60, 40)).save(tmp_path / split / path.name)
    broken = tmp_path / "train" / Photos("train").paths[0].name
    broken.write_bytes(broken.read_bytes()[:900])
    more = (*FLOW_ALONE, "--config.data.source=folder", f"--config.data.path={tmp_path}")

    process = run_module("epsilon_vae.main", *flags(tmp_path / "raise", *more))
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2 and "Traceback" not in err
    assert f"epsilon_vae: {broken}: not a readable image" in err and "on_bad_record = skip" in err

    more += ("--config.data.on_bad_record=skip", "--config.data.max_bad_share=0.5")
    _, err = finish(run_module("epsilon_vae.main", *flags(tmp_path / "skip", *more)))
    assert err.count(f"Left out: {broken}") == 1
    assert [row["bad_records"] for row in read_metrics(tmp_path / "skip")[:STEPS]][-1] == "1"


def test_window_names_step_and_term():
    window = MetricsWindow()
    window.add(6, {"loss/flow": np.float32(1.0), "loss/lpips": np.float32(0.1)})
    window.add(7, {"loss/flow": np.float32(1.0), "loss/lpips": np.float32("nan")})
    with pytest.raises(NonFiniteError, match="step 7: loss/lpips = nan"):
        window.sync()


def leaves_differ(one, other) -> float:
    """The largest difference of two trees' leaves."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return max(float(np.max(np.abs(np.asarray(x) - np.asarray(y)))) for x, y in pairs)


def test_second_stage_starts_from_the_first(finished_run, run_module, tmp_path):
    """32 → 64 px: EMA weights and discriminator of the first stage, step 0 of the second."""
    more = (
        f"--config.init_from={finished_run}",
        "--config.seed=1",
        "--config.data.resolution=64",
        "--config.batch_size=2",
        "--config.num_steps=1",
        "--config.optim.lr=1e-12",
        "--config.optim.discriminator_lr=1e-12",
    )
    finish(run_module("epsilon_vae.main", *flags(tmp_path, *more), **QUICK_FLAGS))
    first, second = load_state(finished_run, STEPS), load_state(tmp_path, 1)
    assert int(second["step"]) == 1
    assert leaves_differ(second["discriminator"], first["discriminator"]) < 1e-8
    for network in ("encoder", "decoder"):
        assert leaves_differ(first["ema"][network], first["params"][network]) > 1e-3
        for field in ("params", "ema"):
            # The moving average of a weight with itself is off by a rounding.
            assert leaves_differ(second[field][network], first["ema"][network]) < 1e-6


def test_decoder_learns_on_a_frozen_encoder(finished_run, run_module, tmp_path):
    """From raw weights, with a discriminator of its own; stopped after two steps and resumed."""
    more = (
        f"--config.init_from={finished_run}",
        "--config.init.encoder=raw",
        "--config.init.discriminator=none",
        "--config.model.encoder.frozen=true",
        "--config.seed=1",
    )
    for num_steps in (2, 3):
        arguments = flags(tmp_path, *more, f"--config.num_steps={num_steps}")
        out, _ = finish(run_module("epsilon_vae.main", *arguments, **QUICK_FLAGS))
    assert "Resuming from step 2" in out
    first, second = load_state(finished_run, STEPS), load_state(tmp_path, 3)
    for field in ("params", "ema"):
        assert leaves_differ(second[field]["encoder"], first["params"]["encoder"]) == 0
        assert leaves_differ(second[field]["decoder"], first["ema"]["decoder"]) > 1e-4
    assert leaves_differ(second["discriminator"], first["discriminator"]) > 0.1
    rows = read_metrics(tmp_path)
    norms = [float(row["grad_norm/autoencoder"]) for row in rows if row["grad_norm/autoencoder"]]
    assert len(norms) == 3 and np.isfinite(norms).all() and min(norms) > 0


def init_weights(config, workdir, **parts) -> dict:
    """`load_init_weights` onto a config's shapes, with `config.init` but for `parts`."""
    return load_init_weights(state_shapes(config), str(workdir), **{**config.init, **parts})


def test_each_network_is_taken_on_its_own(finished_run, small_config):
    saved = load_state(finished_run, STEPS)
    loaded = init_weights(small_config, finished_run, encoder="none", decoder="raw")
    assert loaded.keys() == {"params", "ema", "discriminator"}
    assert loaded["params"].keys() == loaded["ema"].keys() == {"decoder"}
    assert leaves_differ(loaded["params"]["decoder"], saved["params"]["decoder"]) == 0
    assert leaves_differ(loaded["ema"]["decoder"], saved["params"]["decoder"]) == 0
    assert leaves_differ(loaded["discriminator"], saved["discriminator"]) == 0
    loaded = init_weights(small_config, finished_run, decoder="none", discriminator="none")
    assert loaded.keys() == {"params", "ema"}
    assert loaded["params"].keys() == loaded["ema"].keys() == {"encoder"}
    assert leaves_differ(loaded["params"]["encoder"], saved["ema"]["encoder"]) == 0


def test_decoder_of_another_size_is_refused_unless_it_is_not_asked_for(finished_run, small_config):
    small_config.model.decoder.size = "b"
    with pytest.raises(CheckpointError) as error:
        init_weights(small_config, finished_run)
    message = str(error.value)
    assert message.endswith("; take its own config, or config.init.decoder = none")
    assert (
        "ema/decoder/conv_in/kernel is (3, 3, 11, 16) in the checkpoint, (3, 3, 11, 64)" in message
    )
    assert "encoder/" not in message and "discriminator/" not in message
    loaded = init_weights(small_config, finished_run, decoder="none")
    assert loaded["params"].keys() == {"encoder"}


def test_first_stage_without_a_gan_has_no_discriminator_to_give(small_config, tmp_path):
    small_config.loss.adv_weight = 0.0
    shapes = state_shapes(small_config)
    checkpointer = Checkpointer(str(tmp_path))
    checkpointer.save(
        1, jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes), data={}, config=small_config
    )
    checkpointer.close()
    assert init_weights(small_config, tmp_path).keys() == {"params", "ema"}
    small_config.loss.adv_weight = 0.5
    with pytest.raises(CheckpointError) as error:
        init_weights(small_config, tmp_path)
    assert "or config.init.discriminator = none" in str(error.value)
    assert "discriminator/conv0/kernel (4, 4, 6, 16) is not in the checkpoint" in str(error.value)
    loaded = init_weights(small_config, tmp_path, discriminator="none")
    assert loaded.keys() == {"params", "ema"}
