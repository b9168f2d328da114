"""Work on a batch of images, shared among devices."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from epsilon_vae.parallel.mesh import replicated
from epsilon_vae.parallel.sharding import BATCH_AXES


def share_images(function: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """`function`, compiled, with images shared over `data` and `fsdp`, rows of each over `space`.

    Args:
      function: `(whole, *batches) -> results`, a tree that is needed whole, such as parameters, and
        arrays `[B, …]` to arrays `[B, …]`; what it says of an image must not depend on the others.
      mesh: of one process or all.

    Returns:
      A function of the same arguments to NumPy results. Batches are NumPy arrays of any size; all
      processes give the same ones, and all get the results.
    """
    images = P(BATCH_AXES)
    abreast = mesh.shape["data"] * mesh.shape["fsdp"]

    def on_mesh(whole: Any, *batches: jax.Array) -> Any:
        # `space` stays the compiler's, and the networks' constraints. check_vma: a loop inside may
        # start from noise, which does not vary over devices yet.
        shared = jax.shard_map(
            function,
            mesh=mesh,
            in_specs=(P(), *(images for _ in batches)),
            out_specs=images,
            axis_names=set(BATCH_AXES),
            check_vma=False,
        )
        return shared(whole, *batches)

    compiled = jax.jit(on_mesh, out_shardings=replicated(mesh))

    def call(whole: Any, *batches: np.ndarray) -> Any:
        size = len(batches[0])
        padded = [np.concatenate([x, x[:1].repeat(-size % abreast, 0)]) for x in batches]
        placed = [
            jax.make_array_from_callback(
                x.shape, NamedSharding(mesh, images), lambda part, x=x: x[part]
            )
            for x in padded
        ]
        with jax.set_mesh(mesh):
            return jax.tree.map(lambda x: np.asarray(x)[:size], compiled(whole, *placed))

    return call
