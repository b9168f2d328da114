"""A run that resumes elsewhere after each step: the same losses, the data in the same order."""

import shutil

import jax
import numpy as np
import pytest

import epsilon_vae
from tests.helpers import (
    QUICK_FLAGS,
    STEPS,
    assert_same_metrics,
    flags,
    held_out_images,
    read_metrics,
)
from tests.processes import finish

EIGHT_DEVICES = {"JAX_NUM_CPU_DEVICES": "8"} | QUICK_FLAGS
BATCH = "--config.batch_size=8"
# Flags and environment of each topology.
TOPOLOGIES = {
    "one": ((), {}),
    "data8": ((), EIGHT_DEVICES),
    "fsdp8": (("--config.mesh.fsdp=8",), EIGHT_DEVICES),
    "mixed8": (("--config.mesh.fsdp=2", "--config.mesh.space=2"), EIGHT_DEVICES),
}
# Where each step is taken, from the checkpoint that the one before has left.
ROAD = ("one", "fsdp8", "data8", "fsdp8", "one", "mixed8")
assert len(ROAD) == STEPS


@pytest.fixture(scope="module")
def run_on_one(tmp_path_factory, run_module):
    """Workdir of a run in one go, on one device."""
    workdir = tmp_path_factory.mktemp("run_on_one")
    finish(run_module("epsilon_vae.main", *flags(workdir, BATCH)))
    return workdir


@pytest.fixture(scope="module")
def moved_run(tmp_path_factory, run_module):
    """Workdir of a run along `ROAD`, with each step's checkpoint and sharding table."""
    workdir = tmp_path_factory.mktemp("moved_run")
    for step, topology in enumerate(ROAD, 1):
        more, environment = TOPOLOGIES[topology]
        more += (BATCH, f"--config.num_steps={step}", f"--config.checkpoint.keep={STEPS}")
        out, _ = finish(run_module("epsilon_vae.main", *flags(workdir, *more), **environment))
        assert step == 1 or f"Resuming from step {step - 1}" in out
        shutil.copy(workdir / "sharding.txt", workdir / f"sharding_{step}.txt")
    return workdir


def test_it_ends_as_the_run_on_one_device(moved_run, run_on_one):
    """Each stop was evaluated too: of those rows, the last is the other run's as well."""
    rows = read_metrics(moved_run)
    assert len(rows) == 2 * STEPS
    steps = [row for row in rows if row["loss/flow"]]
    assert_same_metrics([*steps, rows[-1]], read_metrics(run_on_one))


def test_fsdp_alone_shards_what_is_saved(moved_run):
    tables = [(moved_run / f"sharding_{step}.txt").read_text() for step in range(1, STEPS + 1)]
    assert ["fsdp" in table for table in tables] == [False, True, False, True, False, True]


def test_sharded_checkpoint_is_used_on_one_device(moved_run, run_on_one):
    assert jax.device_count() == 1
    images = held_out_images(32)
    sharded, whole = (
        epsilon_vae.restore(str(workdir), step=4).reconstruct(images, 1).astype(int)
        for workdir in (moved_run, run_on_one)
    )
    assert np.std(whole) > 10 and np.abs(sharded - whole).mean() < 0.5
