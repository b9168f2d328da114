"""Work on a batch of images, shared among devices."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P


def share_images(function: Callable[..., Any], mesh: Mesh | None = None) -> Callable[..., Any]:
    """`function`, compiled, with the images shared among all devices of the mesh.

    Args:
      function: `(whole, *batches) -> results`, a tree that is needed whole, such as parameters, and
        arrays `[B, …]` to arrays `[B, …]`; what it says of an image must not depend on the others.
      mesh: over all processes; None for one device, JAX's first.

    Returns:
      A function of the same arguments to NumPy results. Batches are NumPy arrays of any size; all
      processes give the same ones, and all get the results.
    """
    if mesh is None:
        compiled = jax.jit(function)
        return lambda whole, *batches: jax.tree.map(np.asarray, compiled(whole, *batches))

    images = P(mesh.axis_names)

    def on_mesh(whole: Any, *batches: jax.Array) -> Any:
        specs = (P(), *(images for _ in batches))
        # check_vma: a loop inside may start from noise, which does not vary over devices yet.
        shared = jax.shard_map(
            function, mesh=mesh, in_specs=specs, out_specs=images, check_vma=False
        )
        return shared(whole, *batches)

    compiled = jax.jit(on_mesh, out_shardings=NamedSharding(mesh, P()))

    def call(whole: Any, *batches: np.ndarray) -> Any:
        size = len(batches[0])
        padding = -size % mesh.size
        padded = [np.concatenate([batch, batch[:1].repeat(padding, 0)]) for batch in batches]
        placed = [
            jax.make_array_from_callback(
                batch.shape, NamedSharding(mesh, images), lambda part, batch=batch: batch[part]
            )
            for batch in padded
        ]
        return jax.tree.map(lambda x: np.asarray(x)[:size], compiled(whole, *placed))

    return call
