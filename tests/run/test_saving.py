"""What may be saved, and where: names of folders, the first save, updates that break the state."""

import shutil

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from epsilon_vae import checkpoint
from epsilon_vae.checkpoint import Checkpointer, CheckpointError, SaveError
from epsilon_vae.data.transforms import to_uint8
from epsilon_vae.errors import NonFiniteError
from epsilon_vae.inference.restoring import restore
from epsilon_vae.parallel.mesh import make_mesh
from epsilon_vae.run.initialize import restore_or_init
from epsilon_vae.run.monitor import MetricsWindow
from epsilon_vae.training.build import build_train_step
from epsilon_vae.training.sharded import state_shapes
from tests import micro
from tests.helpers import FLOW_ALONE, QUICK_FLAGS, STEPS, flags, saved_steps

CONFIG = ml_collections.ConfigDict({"seed": 1})


@pytest.mark.parametrize(
    "name", ["lr[3e-4]", "a*b", "a?b", "a\\b", "a\udcffb", "x[1]/run", "gs:/run", ""]
)
def test_folder_of_which_nothing_could_be_read_is_refused(name, run_module, tmp_path):
    workdir = f"{tmp_path}/{name}" if name else ""
    with pytest.raises(CheckpointError, match="workdir|checkpoints cannot be"):
        Checkpointer(workdir)
    if name in ("lr[3e-4]", ""):
        process = run_module("epsilon_vae.main", *flags(workdir))
        _, err = process.communicate(timeout=300)
        assert process.returncode == 2 and len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a b", "a%20b", "ü#{x}", "a\nb", "1.orbax-checkpoint-tmp"])
def test_folder_of_any_other_name_gives_back_what_it_took(name, tmp_path):
    workdir, tree = str(tmp_path / name), {"w": jnp.arange(3.0)}
    checkpointer = Checkpointer(workdir)
    checkpointer.save(1, tree, data={}, config=CONFIG)  # which reads it back
    checkpointer.close()
    target = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree
    )
    assert Checkpointer(workdir).restore_newest(target).step == 1


@pytest.mark.parametrize("damage", ["lost", "changed"])
def test_first_save_that_cannot_be_read_back_stops_the_run(damage, monkeypatch, tmp_path):
    """As on a disk that takes all and keeps nothing."""
    write = checkpoint.checksums.write

    def write_and_damage(folder):
        write(folder)
        (array,) = (
            path
            for path in (folder / "state" / "ocdbt.process_0" / "d").iterdir()
            if path.stat().length > 2**16
        )
        content = array.read_bytes()
        array.write_bytes(b"" if damage == "lost" else content[:-9000] + bytes(9000))

    monkeypatch.setattr(checkpoint.checksums, "write", write_and_damage)
    state = {"w": jax.random.normal(jax.random.key(0), (2**16,))}
    with pytest.raises(SaveError, match=r"1: cannot be read back \(.+name another workdir"):
        Checkpointer(str(tmp_path)).save(1, state, data={}, config=CONFIG)


def test_first_save_of_other_numbers_stops_the_run(monkeypatch, tmp_path):
    monkeypatch.setattr(checkpoint, "load_parts", lambda step, target: {"w": jnp.ones(3)})
    with pytest.raises(SaveError, match="it is not what was written"):
        Checkpointer(str(tmp_path)).save(1, {"w": jnp.zeros(3)}, data={}, config=CONFIG)


def test_killed_between_files_and_checksums_leaves_no_step(monkeypatch, tmp_path):
    """Checksums come before the rename: a step without them is none."""
    monkeypatch.setattr(checkpoint.checksums, "write", lambda folder: 1 / 0)
    with pytest.raises(SaveError, match="not saved: division by zero"):
        Checkpointer(str(tmp_path)).save(1, {"w": jnp.zeros(3)}, data={}, config=CONFIG)
    assert saved_steps(tmp_path) == []


@pytest.fixture(scope="module")
def parts():
    """Config, step and mesh of a state."""
    config = micro.get_config()
    return config, build_train_step(config), make_mesh(devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def state(parts):
    _, step, mesh = parts
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), state_shapes(step, mesh))
    MetricsWindow().check_state(5, zeros)
    return zeros


@pytest.mark.parametrize("field", ["params", "ema", "opt_state", "discriminator"])
def test_state_is_checked_field_by_field(field, state):
    leaves, tree = jax.tree.flatten(getattr(state, field))
    leaves[-1] = jnp.full(leaves[-1].shape, jnp.nan)
    broken = state.replace(**{field: jax.tree.unflatten(tree, leaves)})
    with pytest.raises(NonFiniteError, match=rf"step 5: its update made NaN of {field}\."):
        MetricsWindow().check_state(5, broken)


def test_resuming_leaves_out_a_step_that_is_not_finite(finished_run, parts, tmp_path, caplog):
    """As versions saved that looked at the metrics alone."""
    config, step, mesh = parts
    shutil.copytree(finished_run / "checkpoints", tmp_path / "checkpoints")
    checkpointer = Checkpointer(str(tmp_path), keep=3)
    state = checkpointer.restore_newest(state_shapes(step, mesh)).state
    broken = jax.tree.map(lambda x: x * jnp.nan, state.ema["decoder"])
    state = state.replace(ema=state.ema | {"decoder": broken})
    checkpointer.save(STEPS + 1, state, data={}, config=config)
    checkpointer.close()

    vae = restore(str(tmp_path))  # sound files, useless numbers
    image = np.zeros((32, 32, 3), np.uint8)
    with pytest.raises(NonFiniteError, match=rf"{tmp_path}/checkpoints/7: images of its decoder"):
        vae.reconstruct(image)

    checkpointer = Checkpointer(str(tmp_path), keep=3)
    _, restored = restore_or_init(config, step, checkpointer=checkpointer, mesh=mesh)
    assert restored.step == STEPS
    assert (
        "Checkpoint 7 is damaged and left out, for 6: NaN or infinite numbers in ema" in caplog.text
    )


def test_run_that_fails_after_resuming_names_the_older_checkpoint(run_module, tmp_path):
    """A rate of 1e30: finite parameters of 1e30 are saved, and the next step is NaN for ever."""
    more = (*FLOW_ALONE, "--config.checkpoint.every_steps=1")
    steps = "--config.num_steps=2"
    process = run_module("epsilon_vae.main", *flags(tmp_path, *more), steps, **QUICK_FLAGS)
    assert process.wait(300) == 0
    more = (*more, "--config.num_steps=9", "--config.optim.lr=1e30")
    process = run_module("epsilon_vae.main", *flags(tmp_path, *more), **QUICK_FLAGS)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1 and len(err.splitlines()) == 1
    assert "The run was resumed from checkpoint 2, as it would be again" in err
    assert f"to resume from 1 instead, move {tmp_path}/checkpoints/2 away." in err


def test_update_that_breaks_the_last_step_is_not_saved(run_module, tmp_path):
    """The last step's metrics are finite; its update is not."""
    more = (*FLOW_ALONE, "--config.optim.lr=1e39", "--config.num_steps=1")
    process = run_module("epsilon_vae.main", *flags(tmp_path, *more), **QUICK_FLAGS)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1 and "Traceback" not in err
    assert "epsilon_vae: step 1: its update made NaN of params" in err.splitlines()[-1]
    assert saved_steps(tmp_path) == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixel_that_is_no_number_is_no_color(value):
    images = np.zeros((2, 2, 3), np.float32)
    images[0, 1, 2] = value
    with pytest.raises(NonFiniteError, match=r"images: 8\.33 % of the numbers are NaN"):
        to_uint8(images)
