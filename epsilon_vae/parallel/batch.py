"""Work on a batch of images, shared among devices."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from epsilon_vae.parallel.mesh import replicated
from epsilon_vae.parallel.programs import keep_programs
from epsilon_vae.parallel.sharding import BATCH_AXES

# Images that a device encodes, generates or decodes in one call when a command goes through many:
# always so many, since another number may change a digit.
IMAGES_PER_DEVICE = 16


def jit_shared(function: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """`function`, jitted, with images shared over `data` and `fsdp`, rows of each over `space`.

    Args:
      function: `(whole, *batches) -> results`, a tree that is needed whole, such as parameters, and
        arrays `[B, …]` to arrays `[B, …]`; what it says of an image must not depend on the others.
      mesh: of one process or all.

    Returns:
      A function of the same arguments, B a multiple of `num_data_shards(mesh)`; its results are
      whole on each device. To be called, or traced, under `jax.set_mesh(mesh)`.
    """

    def on_mesh(whole: Any, *batches: jax.Array) -> Any:
        # `space` stays the compiler's, and the networks' constraints. check_vma: a loop inside may
        # start from noise, which does not vary over devices yet.
        shared = jax.shard_map(
            function,
            mesh=mesh,
            in_specs=(P(), *(P(BATCH_AXES) for _ in batches)),
            out_specs=P(BATCH_AXES),
            axis_names=set(BATCH_AXES),
            check_vma=False,
        )
        return shared(whole, *batches)

    return jax.jit(on_mesh, out_shardings=replicated(mesh))


def num_data_shards(mesh: Mesh) -> int:
    """How many images devices of `data` and `fsdp` work on at a time."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def in_chunks(function: Callable[..., Any], size: int) -> Callable[..., Any]:
    """`function(whole, *batches)`, given `size` images at a time, in one program for all of them.

    What it gives for an image is what `share_images` gives, which needs no program for each number.
    """

    def call(whole: Any, *batches: jax.Array) -> Any:
        groups = [x.reshape(-1, size, *x.shape[1:]) for x in batches]
        results = jax.lax.map(lambda group: function(whole, *group), groups)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), results)

    return call


def share_images(
    function: Callable[..., Any], mesh: Mesh, group_size: int = 1
) -> Callable[..., Any]:
    """`jit_shared(function, mesh)`, from NumPy arrays of any number of images to NumPy results.

    Each device is given a group of images, filled up, then the next: one program, compiled or kept
    (`keep_programs`), does any number of images, of which no more than a group take memory. What it
    gives for an image is the same to the bit, however many there are and on however many devices:
    another number in a convolution may change the last digit.

    All processes give the same batches, and all get the results.

    Args:
      function: as `jit_shared`'s.
      mesh: as `jit_shared`'s.
      group_size: images that a device works on together.
    """
    keep_programs()
    compiled = jit_shared(function, mesh)
    images_at = NamedSharding(mesh, P(BATCH_AXES))
    per_call = group_size * num_data_shards(mesh)

    def call_once(whole: Any, batches: list[np.ndarray]) -> Any:
        size = len(batches[0])
        filled = [np.concatenate([x, x[:1].repeat(per_call - size, 0)]) for x in batches]
        placed = [
            jax.make_array_from_callback(x.shape, images_at, lambda part, x=x: x[part])
            for x in filled
        ]
        with jax.set_mesh(mesh):
            return jax.tree.map(lambda x: np.asarray(x)[:size], compiled(whole, *placed))

    def call(whole: Any, *batches: np.ndarray) -> Any:
        starts = range(0, len(batches[0]), per_call)
        parts = [call_once(whole, [x[at : at + per_call] for x in batches]) for at in starts]
        return jax.tree.map(lambda *x: np.concatenate(x), *parts)

    return call
