"""The command line: what it prints, and how it refuses."""

import os
import re
import subprocess
import sys

import pytest
from PIL import Image

from epsilon_vae.data.sources import Photos
from tests.helpers import FLOW_ALONE, QUICK_FLAGS, flags
from tests.processes import ROOT, finish


def test_dry_run_prints_config_parameters_and_flops(run_module):
    process = run_module("epsilon_vae.main", "--config=configs/tiny.py", "--dry_run")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert '"num_steps":' in out
    assert "encoder parameters: 225576" in out
    assert "decoder parameters: " in out and "discriminator parameters: " in out
    assert "FLOPs a step: " in out
    assert "(parameters, EMA, optimizers): 30 MiB a device; for all" in out
    assert "disk for checkpoints: 91 MiB, 3 of 30 MiB at most" in out
    assert "time for" not in out  # no step was timed


REFUSALS = [
    (("--config.optim.learning_rate=1",), "config.optim.learning_rate = '1': there is no such key"),
    (("--config.num_steps=1e3",), "config.num_steps = '1e3': expected a whole number"),
    (("--config.batch_size=0",), "config.batch_size = 0: expected a whole number of at least 1"),
    (("--config.batch_size=6", "--config.optim.accumulate=4"), "config.batch_size = 6"),
    (("--config.data.resolution=70",), "config.data.resolution = 70: the networks take multiples"),
    (("--config.data.source=folder",), "config.data.path = ''"),
    (
        ("--config.data.source=folder", "--config.data.path=nowhere"),
        "nowhere/train: no such folder",
    ),
    (("--config.init_from=nowhere",), "nowhere: no checkpoints"),
    (("--config.loss.label_dropout=0.1",), "label_dropout: this config has no such key; auto"),
    (
        ("--config.model.latent_diffusion.size=s",),
        "latent_diffusion: this config has no such key; autoencoders",
    ),
    (
        ("--config.model.generator.size=s",),
        "config.model.generator.size = 's': there is no such key; it is called "
        "config.model.latent_diffusion.size now",
    ),
    (("--config.optim.rate", "3"), "config.optim.rate = '3': there is no such key"),
    (("--workdir=README.md",), "epsilon_vae: README.md: cannot be made"),
    (("--wrokdir=x",), "Unknown command line flag 'wrokdir'"),
    (("stray",), "'stray' is not a flag"),
]


@pytest.mark.parametrize(("arguments", "words"), REFUSALS)
def test_refusal_is_one_line_and_code_2(run_module, tmp_path, arguments, words):
    process = run_module(
        "epsilon_vae.main", "--config=tests/micro.py", f"--workdir={tmp_path}/run", *arguments
    )
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2, err
    lines = [line for line in err.splitlines() if line.startswith("epsilon_vae: ")]
    assert len(lines) == 1 and words in lines[0]
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--config is missing"),
        (("--workdir=x",), "--config is missing"),
        (("--config=configs/tiny.py",), "--workdir is missing"),
        (("--config=configs/nope.py", "--workdir=x"), "configs/nope.py"),
        (("--config=configs/ablation.py:z", "--workdir=x"), "the rungs are baseline"),
        (("--config=configs/sd_m.py:12", "--dry_run"), "config.model.encoder.f = 12"),
        (("--config=configs/sd.py:m,g=16", "--workdir=x"), "cannot take 'g=16'; its arguments are"),
    ],
)
def test_missing_and_unknown_configs(run_module, arguments, words):
    process = run_module("epsilon_vae.main", *arguments)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2, err
    assert words in err and "Traceback" not in err


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("study", "--workdir is missing: name a folder"),
        ("evaluate", "--output is missing: name a folder"),
        ("encode", "--workdir is missing: name the folder of a run"),
        ("generate", "--workdir is missing: name the folder of a latent"),
        ("convert", "--workdir is missing: name the folder of a run"),
        ("compile", "--config is missing: name a config file"),
        ("reconstruct", "--output is missing: name an image file"),
        ("data.prepare", "--output is missing: name a folder"),
    ],
)
def test_command_without_arguments_says_what_is_missing(run_module, module, words):
    process = run_module(f"epsilon_vae.{module}")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 2 and not out
    assert err.startswith(f"epsilon_vae: {words}") and len(err.splitlines()) == 1


@pytest.mark.parametrize("platform", ["cuda", "nowhere"])
@pytest.mark.parametrize("module", ["main", "evaluate"])
def test_devices_that_are_not_there(run_module, tmp_path, platform, module):
    arguments = {
        "main": ("--config=tests/micro.py", f"--workdir={tmp_path}/run"),
        "evaluate": (f"--workdir={tmp_path}", f"--output={tmp_path}/out", "--protocol=local"),
    }
    process = run_module(f"epsilon_vae.{module}", *arguments[module], JAX_PLATFORMS=platform)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2 and len(err.splitlines()) == 1
    assert err.startswith(f"epsilon_vae: JAX_PLATFORMS={platform}: ")


SILENT = """
import time
from epsilon_vae.command_line import exit_codes
with exit_codes():
    time.sleep(1)
"""


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        ("0.4", "at work, 0 s since the last line\nat work, 1 s since"),
        ("20", ""),
        ("0", "epsilon_vae: EPSILON_VAE_SILENCE_SECONDS=0: expected a positive"),
        ("soon", "epsilon_vae: EPSILON_VAE_SILENCE_SECONDS=soon: expected a posi"),
    ],
)
def test_silence_is_broken(seconds, words):
    """Whatever the command does."""
    environment = os.environ | {"EPSILON_VAE_SILENCE_SECONDS": seconds}
    process = subprocess.run(
        [sys.executable, "-c", SILENT],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=environment,
        timeout=200,
    )
    assert process.stderr.startswith(words) and bool(process.stderr) == bool(words)
    assert process.returncode == (2 if "expected" in words else 0) and not process.stdout


INTERRUPTED = """
import gc, os, signal, time
from epsilon_vae.command_line import exit_codes
armed = True
def callback(phase, info):
    global armed
    if armed:
        armed = False
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0)
with exit_codes():
    gc.callbacks.append(callback)
    gc.collect()
    time.sleep(300)
"""


def test_interrupt_is_heard_where_a_callback_swallows_it():
    """As JAX's does, which Python's garbage collector calls."""
    process = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], cwd=ROOT, capture_output=True, text=True, timeout=200
    )
    assert process.returncode == 1
    assert process.stderr == "epsilon_vae: stopped; to resume, run the same command again\n"


def test_help_shows_this_commands_flags(run_module):
    process = run_module("epsilon_vae.main", "--help")
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    shown = set(re.findall(r"--(?:\[no\])?(\w+):", out))
    assert shown == {
        "config",
        "workdir",
        "dry_run",
        "logger",
        "coordinator_address",
        "num_processes",
        "process_id",
        "startup_timeout_seconds",
        "heartbeat_timeout_seconds",
    }


def test_flat_folder_trains_and_says_what_it_holds_out(tmp_path, run_module):
    """A folder of photos without splits, as people have them."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, path in enumerate(Photos("val").paths):
        photo = Image.open(path).convert("RGB").resize((48, 40))
        photo.save(folder / f"{number}.png")
    process = run_module(
        "epsilon_vae.main",
        *flags(tmp_path / "run", *FLOW_ALONE),
        "--config.num_steps=1",
        "--config.data.source=folder",
        f"--config.data.path={folder}",
        **QUICK_FLAGS,
    )
    out, _ = finish(process)
    assert f"{folder}: no splits in it; 2 images are train, and 1 the other part, by the" in out
    assert "(config.data.held_out = 0.05)" in out and "step 1: held-out images" in out
