"""What tests share: a small config, its train step, runs of seconds, and how they are compared."""

import csv
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from PIL import Image

from epsilon_vae.data.pipeline import BadRecords, TrainingBatches, evaluation_batches
from epsilon_vae.data.sources import Photos
from epsilon_vae.data.transforms import to_uint8
from epsilon_vae.parallel.mesh import make_mesh
from epsilon_vae.training import sharded
from epsilon_vae.training.build import build_train_step, frozen_inputs
from epsilon_vae.training.state import TrainState
from tests import WITHOUT_EMITTERS, as_flags

NUM_IMAGES = 64  # in the folder with classes: four batches of a device when they are encoded
STEPS = 6  # of a run

# For programs that run a few times: compiled in a quarter of the time, run seven times as slowly.
# In a process of its own they are flags of the environment.
QUICK_COMPILE = {"xla_backend_optimization_level": 0} | WITHOUT_EMITTERS
QUICK_FLAGS = {"XLA_FLAGS": as_flags(QUICK_COMPILE)}


class Training(NamedTuple):
    """A compiled step with all that calling it needs."""

    config: object
    step: object
    state: TrainState
    frozen: dict
    batch: dict[str, np.ndarray]


def make_training(config, compiler_options: dict | None = QUICK_COMPILE) -> Training:
    """A jitted, not yet compiled step on crops of real photos; it donates nothing."""
    step = build_train_step(config)
    state = jax.jit(step.init, compiler_options=compiler_options)(jax.random.key(0))
    batch = {"image": training_images(config.batch_size, config.data.resolution)}
    jitted = jax.jit(step, compiler_options=compiler_options)
    return Training(config, jitted, state, frozen_inputs(config), batch)


def state_shapes(config) -> TrainState:
    """Shapes of a config's state, as a checkpoint is asked for them."""
    mesh = make_mesh(devices=jax.devices()[:1])
    return sharded.state_shapes(build_train_step(config), mesh)


def training_images(batch_size: int, resolution: int) -> np.ndarray:
    """Crops of the embedded photos, float32 in [-1, 1]."""
    no_bad_records = BadRecords(0, 1)
    batches = TrainingBatches(
        Photos("train"),
        batch_size,
        resolution=resolution,
        seed=0,
        crop="random_resized",
        flip=True,
        reduced_jpeg=True,
        bad_records=no_bad_records,
    )
    return next(batches)["image"]


def held_out_images(resolution: int) -> np.ndarray:
    """uint8 centre crops of the three held-out photos."""
    no_bad_records = BadRecords(0, 1)
    batches = evaluation_batches(
        Photos("val"), 3, resolution=resolution, crop="center_crop_adm", bad_records=no_bad_records
    )
    return to_uint8(next(batches)["image"])


def write_images(folder: Path, count: int) -> None:
    """Writes 32 px crops of photos, in two classes."""
    photos = [np.asarray(Image.open(path).convert("RGB")) for path in Photos("val").paths]
    for number in range(count):
        path = folder / ("cat", "dog")[number % 2] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        top = 2 * number
        crop = photos[number % 3][top : top + 128 : 4, 100:228:4]
        Image.fromarray(crop).save(path)


def flags(workdir, *more: str) -> tuple[str, ...]:
    """Flags of `epsilon_vae.main` for a run of seconds, of `STEPS` steps."""
    return (
        "--config=tests/micro.py",
        f"--workdir={workdir}",
        f"--config.num_steps={STEPS}",
        "--config.checkpoint.every_steps=2",
        *more,
    )


# For what does not depend on the losses: compiled in half the time.
FLOW_ALONE = ("--config.loss.lpips_weight=0", "--config.loss.adv_weight=0")

# For the runs that others are compared with: a trace of steps 3 and 4.
PROFILE = ("--config.profile.start_step=3", "--config.profile.num_steps=2")


def saved_steps(workdir) -> list[int]:
    """Steps of the checkpoints in a run's folder, rising."""
    return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())


def read_metrics(workdir) -> list[dict]:
    """The rows of a run's metrics.csv."""
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


def load_state(workdir, step: int) -> dict:
    """Every array of a checkpoint, without a target: as it lies on disk, whoever saved it."""
    directory = workdir / "checkpoints" / str(step) / "state"
    handler = ocp.PyTreeCheckpointHandler()
    arrays = jax.tree.map(
        lambda _: ocp.RestoreArgs(restore_type=np.ndarray), dict(handler.metadata(directory).tree)
    )
    return handler.restore(directory, args=ocp.args.PyTreeRestore(restore_args=arrays))


def assert_same_state(one, other, step: int = STEPS) -> None:
    """A step of two runs is the same to the bit: parameters, moments, EMA, discriminator."""
    a = jax.tree_util.tree_leaves_with_path(load_state(one, step))
    b = jax.tree_util.tree_leaves_with_path(load_state(other, step))
    assert [path for path, _ in a] == [path for path, _ in b] and len(a) > 100
    for (path, x), (_, y) in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y, err_msg=jax.tree_util.keystr(path))
