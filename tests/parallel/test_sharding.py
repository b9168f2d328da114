"""Where parameters live: what `sd_m` and `sd_h` take on a device, before anything is made."""

import importlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P

from epsilon_vae.parallel.mesh import AXES, image_sharding, make_mesh
from epsilon_vae.parallel.sharding import (
    gather_parameters,
    global_batch,
    infer_sharding,
    local_batch_indices,
    shard_images,
    sharding_table,
)
from epsilon_vae.training.build import build_train_step
from epsilon_vae.training.sharded import state_shapes

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
POD = AbstractMesh((2, 8, 1), AXES, axis_types=(AxisType.Auto,) * 3)


def shapes_of(name: str):
    config = importlib.import_module(f"configs.{name}").get_config()
    return state_shapes(build_train_step(config), POD)


def specs(tree) -> list[P]:
    return [leaf.sharding.spec for leaf in jax.tree.leaves(tree)]


@pytest.mark.parametrize("name", ["sd_m", "sd_h"])
def test_shardings_are_the_golden_ones(name):
    """A change is a decision: `python -m tests.parallel.test_sharding` writes them anew."""
    state = shapes_of(name)
    table = sharding_table(state.params | {"discriminator": state.discriminator})
    assert table == (GOLDEN / f"sharding_{name}.txt").read_text()
    # All that has a parameter's shape lies where the parameter does.
    assert specs(state.ema) == specs(state.params) == specs(state.opt_state[0].nu)
    assert specs(state.discriminator) == specs(state.discriminator_opt_state[0].nu)


@pytest.mark.parametrize("name", ["sd_h", "dit"])
def test_nearly_all_bytes_are_sharded(name):
    """A device of eight holds 12.5 per cent and little more: few parameters are small."""
    state = shapes_of("sd_h") if name == "sd_h" else shapes_of("lite_dit").params["decoder"]
    leaves = jax.tree.leaves(state)
    whole = sum(leaf.size for leaf in leaves)
    local = sum(np.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in leaves)
    assert 1 / 8 < local / whole < 1 / 8 + 0.003


def test_largest_dimension_that_divides_is_sharded():
    def spec(*shape: int) -> P:
        return infer_sharding(jax.ShapeDtypeStruct(shape, np.float32), POD).spec

    assert spec(3, 3, 512, 256) == P(None, None, "fsdp")
    assert spec(3, 3, 256, 512) == P(None, None, None, "fsdp")
    assert spec(3, 3, 250, 512) == P(None, None, None, "fsdp")
    assert spec(3, 3, 512, 1027) == P(None, None, "fsdp")
    assert spec(1027, 1027) == spec(64, 64) == spec() == P()


def test_sharded_kernels_alone_are_gathered_in_the_compute_dtype():
    shapes = {
        "kernel": jax.ShapeDtypeStruct((256, 256), np.float32),
        "bias": jax.ShapeDtypeStruct((256,), np.float32),
        "codebook": jax.ShapeDtypeStruct((16384, 8), np.float32),
    }
    with jax.sharding.use_abstract_mesh(POD):
        gathered = jax.eval_shape(lambda p: gather_parameters(p, jnp.bfloat16), shapes)
    dtypes = {name: leaf.dtype for name, leaf in gathered.items()}
    assert dtypes == {"kernel": jnp.bfloat16, "bias": np.float32, "codebook": np.float32}


def test_a_batch_is_put_together_from_what_a_process_holds():
    mesh = make_mesh(data=-1)
    images = np.arange(4 * 8 * 2 * 3, dtype=np.float32).reshape(4, 8, 2, 3)
    local_indices = local_batch_indices(image_sharding(mesh), 4)
    np.testing.assert_array_equal(local_indices, range(4))
    np.testing.assert_array_equal(
        global_batch(image_sharding(mesh), 4, local_indices=local_indices, local=images), images
    )


def test_activations_are_left_alone_without_a_mesh():
    x = np.zeros((2, 16, 16, 4))
    assert shard_images(x) is x


if __name__ == "__main__":
    for config in ("sd_m", "sd_h"):
        shapes = shapes_of(config)
        parameters = shapes.params | {"discriminator": shapes.discriminator}
        (GOLDEN / f"sharding_{config}.txt").write_text(sharding_table(parameters))
