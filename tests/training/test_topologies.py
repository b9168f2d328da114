"""A run goes on on another topology: the same losses, the data in the same order."""

import shutil

import jax
import numpy as np
import pytest

import epsilon_vae
from tests.conftest import assert_same_metrics, finish, flags, held_out_images, read_metrics

EIGHT_DEVICES = {"JAX_NUM_CPU_DEVICES": "8"}
# Flags and environment of each topology.
TOPOLOGIES = {
    "one device": ((), {}),
    "eight by data": ((), EIGHT_DEVICES),
    "eight by fsdp": (("--config.mesh.fsdp=8",), EIGHT_DEVICES),
    "two by two by two": (("--config.mesh.fsdp=2", "--config.mesh.space=2"), EIGHT_DEVICES),
}


@pytest.fixture(scope="module")
def train(run_module):
    def train_on(topology: str, workdir) -> str:
        more, environment = TOPOLOGIES[topology]
        out, _ = finish(run_module("epsilon_vae.main", *flags(workdir, *more), **environment), 600)
        return out

    return train_on


@pytest.fixture(scope="module")
def runs(tmp_path_factory, finished_run, train):
    """Workdirs of runs in one go; not to be written to."""
    workdirs = {"one device": finished_run[0]}
    for topology in ("eight by data", "eight by fsdp"):
        workdirs[topology] = tmp_path_factory.mktemp("run")
        train(topology, workdirs[topology])
    return workdirs


def test_fsdp_alone_shards_what_is_saved(runs):
    sharded = {name: "fsdp" in (runs[name] / "sharding.txt").read_text() for name in runs}
    assert sharded == {"one device": False, "eight by data": False, "eight by fsdp": True}


def test_sharded_checkpoint_is_used_on_one_device(runs):
    assert jax.device_count() == 1
    images = held_out_images(32)
    sharded, whole = (
        epsilon_vae.restore(str(runs[name])).reconstruct(images, 1).astype(int)
        for name in ("eight by fsdp", "one device")
    )
    assert np.std(whole) > 10 and np.abs(sharded - whole).mean() < 0.5


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("one device", "eight by fsdp"),
        ("eight by fsdp", "one device"),
        ("eight by fsdp", "eight by data"),
        ("eight by data", "eight by fsdp"),
        ("one device", "two by two by two"),
    ],
)
def test_checkpoint_goes_on(runs, train, tmp_path, before, after):
    saved = runs[before] / "checkpoints" / "4"
    shutil.copytree(saved, tmp_path / "checkpoints" / "4")
    assert "Resuming from step 4" in train(after, tmp_path)
    assert_same_metrics(read_metrics(tmp_path), read_metrics(runs["one device"])[4:])
