"""What tests share: a small config, and a train step that is compiled once."""

import csv
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest
from PIL import Image

from configs import tiny
from epsilon_vae import builders
from epsilon_vae.data.pipeline import BadRecords, TrainingBatches, evaluation_batches
from epsilon_vae.data.sources import Photos
from epsilon_vae.data.transforms import to_uint8
from epsilon_vae.parallel.mesh import make_mesh
from epsilon_vae.training import sharded
from epsilon_vae.training.state import TrainState

ROOT = Path(__file__).parent.parent
NUM_IMAGES = 64  # in the folder with classes: four batches of a device when they are encoded


# For programs that run a few times: compiled in less than half the time, run five times as slowly.
QUICK_COMPILE = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
QUICK_COMPILE_FLAGS = " ".join(f"--{name}={int(value)}" for name, value in QUICK_COMPILE.items())

# Files that take minutes come first, so that the workers of pytest-xdist end at about one time.
LONG_FILES = (
    "test_topologies",
    "test_loop",
    "test_configs",
    "test_meshes",
    "test_several_processes",
    "test_evaluate",
    "test_step",
    "test_compile",
    "test_study",
    "test_prepare",
    "test_encode",
    "test_generate",
    "test_autoencoder",
)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: (*LONG_FILES, item.path.stem).index(item.path.stem))


def make_small_config():
    """`tiny` at 32 px and batch 4: all losses on, seconds to compile."""
    config = tiny.get_config()
    config.data.resolution = 32
    config.batch_size = 4
    config.optim.warmup_steps = 0
    return config


@pytest.fixture
def small_config():
    return make_small_config()


def training_images(batch_size: int, resolution: int) -> np.ndarray:
    """Crops of the embedded photos, float32 in [-1, 1]."""
    no_bad_records = BadRecords(0, 1)
    batches = TrainingBatches(
        Photos("train"), batch_size, resolution, 0, "random_resized", True, True, no_bad_records
    )
    return next(batches)["image"]


def held_out_images(resolution: int) -> np.ndarray:
    """uint8 centre crops of the three held-out photos."""
    no_bad_records = BadRecords(0, 1)
    batches = evaluation_batches(Photos("val"), 3, resolution, "center_crop_adm", no_bad_records)
    return to_uint8(next(batches)["image"])


class Training(NamedTuple):
    """A compiled step with all that calling it needs."""

    config: object
    step: object
    state: TrainState
    frozen: dict
    batch: dict[str, np.ndarray]


def make_training(config, compiler_options: dict | None = QUICK_COMPILE) -> Training:
    """A jitted, not yet compiled step on crops of real photos."""
    step = builders.train_step(config)
    state = jax.jit(step.init, compiler_options=compiler_options)(jax.random.key(0))
    batch = {"image": training_images(config.batch_size, config.data.resolution)}
    jitted = jax.jit(step, compiler_options=compiler_options)
    return Training(config, jitted, state, builders.frozen_weights(config), batch)


def state_shapes(config) -> TrainState:
    """Shapes of a config's state, as a checkpoint is asked for them."""
    mesh = make_mesh(devices=jax.devices()[:1])
    return sharded.state_shapes(builders.train_step(config), mesh)


@pytest.fixture(scope="session")
def training() -> Training:
    """The small config's step; not donating, so that tests may share its state."""
    return make_training(make_small_config())


@pytest.fixture(scope="session")
def run_module():
    """Starts `python -m MODULE ARGS…` from the repository root, as a user would."""

    def start(module: str, *arguments: str, **environment: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a process group of its own, as a terminal gives it
        )

    return start


SMALL_FLAGS = (
    "--config=configs/tiny.py",
    "--config.data.resolution=32",
    "--config.batch_size=8",
    "--config.optim.warmup_steps=0",
    "--config.log.every_steps=1",
    "--config.eval.every_steps=100",
)

STEPS = 6


def flags(workdir, *more: str) -> tuple[str, ...]:
    """Flags of `epsilon_vae.main` for a run of seconds."""
    return (
        *SMALL_FLAGS,
        f"--workdir={workdir}",
        f"--config.num_steps={STEPS}",
        "--config.checkpoint.every_steps=2",
        *more,
    )


# For what does not depend on the losses: every part of a state, compiled in a third of the time.
LIGHT = (
    "--config.model.decoder.name=dit",
    "--config.loss.lpips_weight=0",
    "--config.loss.r1_weight=0",
)

# For the runs that others are compared with: a trace of steps 3 and 4.
PROFILE = ("--config.profile.start_step=3", "--config.profile.num_steps=2")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def start_together(
    run_module,
    *arguments: str,
    count: int = 2,
    ids: Sequence[int] = (0, 1),
    each=lambda index: (),
    module: str = "epsilon_vae.main",
) -> list[subprocess.Popen]:
    """Processes of a module that know of each other, with one device each.

    Args:
      arguments: of all.
      count: of processes that are expected.
      ids: of those that are started.
      each: id → further arguments of one.
      module: a door that takes several processes.
    """
    address = f"--coordinator_address=127.0.0.1:{free_port()}"
    return [
        run_module(
            module,
            *arguments,
            address,
            f"--num_processes={count}",
            f"--process_id={index}",
            *each(index),
        )
        for index in ids
    ]


def read_until(process, words: str) -> None:
    for line in process.stdout:
        if words in line:
            return
    raise AssertionError(f"never said {words!r}: {process.stderr.read()[-2000:]}")


def read_metrics(workdir) -> list[dict]:
    with (workdir / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


# Relative. Gradients and rounded pictures show sooner that float32 sums were in another order.
TOLERANCES = {"loss/": 1e-5, "grad_norm/": 1e-4, "eval/": 1e-3}


def assert_same_metrics(one: list[dict], other: list[dict]) -> None:
    """Rows of two metrics.csv are equal, but for the order of sums and the sixth digit."""
    assert [row["step"] for row in one] == [row["step"] for row in other] and one
    for a, b in zip(one, other, strict=True):
        for kind, relative in TOLERANCES.items():
            for name in (name for name in a if name.startswith(kind) and a[name]):
                x, y = float(a[name]), float(b[name])
                assert abs(x - y) <= 1.01 * relative * abs(y) + 1e-5 * relative, (a["step"], name)


def finish(process, timeout_seconds: float = 300) -> tuple[str, str]:
    """What a process printed, once it has ended well."""
    out, err = process.communicate(timeout=timeout_seconds)
    assert process.returncode == 0, err[-2000:]
    return out, err


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    """A folder of 32 px crops of photos, in two classes."""
    folder = tmp_path_factory.mktemp("images")
    photos = [np.asarray(Image.open(path).convert("RGB")) for path in Photos("val").paths]
    for number in range(NUM_IMAGES):
        path = folder / ("cat", "dog")[number % 2] / f"{number:02d}.png"
        path.parent.mkdir(exist_ok=True)
        top = 2 * number
        crop = photos[number % 3][top : top + 128 : 4, 100:228:4]
        Image.fromarray(crop).save(path)
    return folder


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory, run_module):
    """Workdir of a run of `STEPS` steps in one go, and what it printed; not to be written to."""
    workdir = tmp_path_factory.mktemp("finished_run")
    out, _ = finish(run_module("epsilon_vae.main", *flags(workdir, *PROFILE)))
    return workdir, out


@pytest.fixture(scope="session")
def light_run(tmp_path_factory, run_module):
    """Workdir of a `LIGHT` run of `STEPS` steps in one go; not to be written to."""
    workdir = tmp_path_factory.mktemp("light_run")
    finish(run_module("epsilon_vae.main", *flags(workdir, *LIGHT, *PROFILE)))
    return workdir
