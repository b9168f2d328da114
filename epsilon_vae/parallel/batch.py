"""Work on a batch of images, shared among devices."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from tqdm import tqdm

from epsilon_vae.parallel import hosts
from epsilon_vae.parallel.mesh import replicated
from epsilon_vae.parallel.programs import compiler_options, keep_programs
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

    return jax.jit(on_mesh, out_shardings=replicated(mesh), compiler_options=compiler_options(mesh))


def num_data_shards(mesh: Mesh) -> int:
    """How many images devices of `data` and `fsdp` work on at a time."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def share_images(
    function: Callable[..., Any], mesh: Mesh, group_size: int = 1, *, bar: str | None = None
) -> Callable[..., Any]:
    """`stream_images`, whose function returns the results of all images together."""
    stream = stream_images(function, mesh, group_size, bar=bar)

    def call(whole: Any, *batches: np.ndarray) -> Any:
        return jax.tree.map(lambda *x: np.concatenate(x), *stream(whole, *batches))

    return call


def stream_images(
    function: Callable[..., Any],
    mesh: Mesh,
    group_size: int = 1,
    *,
    bar: str | None = None,
    unit: str = "image",
) -> Callable[..., Iterator[Any]]:
    """`jit_shared(function, mesh)`, from NumPy arrays of any number of images to groups of results.

    Each device is given a group of images, filled up, then the next: one program, compiled or kept
    (`keep_programs`), does any number of images. While devices work on one group, the results of
    the one before are copied. What it gives for an image is the same to the bit, however many there
    are and on however many devices: another number in a convolution may change the last digit.

    All processes give the same batches, of one image or more, and all get the results. A batch may
    be anything that has a length, and arrays as slices.

    Args:
      function: as `jit_shared`'s.
      mesh: as `jit_shared`'s.
      group_size: images that a device works on together.
      bar: the title of a progress bar, which the first process shows of more than one group; None
        for none.
      unit: that the bar counts.
    """
    keep_programs()
    compiled = jit_shared(function, mesh)
    images_at = NamedSharding(mesh, P(BATCH_AXES))
    per_call = group_size * num_data_shards(mesh)

    def start(whole: Any, batches: list[np.ndarray]) -> Any:
        missing = per_call - len(batches[0])
        filled = [np.concatenate([x, x[:1].repeat(missing, 0)]) for x in batches]
        placed = [
            jax.make_array_from_callback(x.shape, images_at, lambda part, x=x: x[part])
            for x in filled
        ]
        with jax.set_mesh(mesh):
            return compiled(whole, *placed)

    def call(whole: Any, *batches: np.ndarray) -> Iterator[Any]:
        total, waiting = len(batches[0]), []
        is_hidden = bar is None or not hosts.is_first() or total <= per_call
        with tqdm(total=total, desc=bar, unit=unit, disable=is_hidden, leave=None) as shown:

            def finish() -> Any:
                count, results = waiting.pop(0)
                shown.update(count)
                return jax.tree.map(lambda x: np.asarray(x)[:count], results)

            for at in range(0, total, per_call):
                group = [x[at : at + per_call] for x in batches]
                waiting.append((len(group[0]), start(whole, group)))
                if len(waiting) > 1:
                    yield finish()
            yield finish()

    return call
