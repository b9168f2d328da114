"""Work on a batch of images, shared among devices, with a bar where one is wanted."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from epsilon_vae.parallel import hosts
from epsilon_vae.parallel.batch import in_chunks, num_data_shards, share_images


def map_images(
    function: Callable[..., Any], mesh: Mesh, group_size: int, *, bar: str | None = None
) -> Callable[..., np.ndarray]:
    """`share_images(in_chunks(function))`; with a bar, one group a device after the other.

    Args:
      function: as `jit_shared`'s, of one result.
      mesh: of one process or all.
      group_size: images that a device works on together.
      bar: its title; None for none.
    """
    shared = share_images(in_chunks(function, group_size), mesh, group_size)
    size = group_size * num_data_shards(mesh)

    def call(whole: Any, *batches: np.ndarray) -> np.ndarray:
        total, parts = len(batches[0]), []
        with tqdm(total=total, desc=bar, unit="image", disable=not hosts.is_first()) as shown:
            for start in range(0, total, size):
                parts.append(shared(whole, *(x[start : start + size] for x in batches)))
                shown.update(len(parts[-1]))
        return np.concatenate(parts)

    return shared if bar is None else call
