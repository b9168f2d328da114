"""Held-out images as every process sees them: crops in batches of one size, with their names."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from epsilon_vae.data.decode import ImageDecoding
from epsilon_vae.data.named import open_data
from epsilon_vae.data.pipeline import BadRecords, evaluation_batches
from epsilon_vae.data.records import Record
from epsilon_vae.data.sources import Subset
from epsilon_vae.data.transforms import to_uint8
from epsilon_vae.parallel import hosts


class Batch(NamedTuple):
    """Images, filled up by repeating the last, so that nothing is compiled for another number.

    Attributes:
      images: uint8 `[B, H, W, 3]`.
      indices: of them in their source, `[B]`.
      names: of their records, `[B]`.
      count: how many are not repeated.
    """

    images: np.ndarray
    indices: np.ndarray
    names: np.ndarray
    count: int


def batches(
    source: Sequence[Record],
    indices: Sequence[int],
    *,
    batch_size: int,
    resolution: int,
    crop: str,
    decoding: ImageDecoding,
    bad_records: BadRecords,
) -> Iterator[Batch]:
    """Some images of a source, in order. Processes share the reading, and all get all of it.

    Args:
      source: of the images.
      indices: of those to read.
      batch_size: a multiple of the number of processes.
      resolution: of the crops.
      crop: one of `transforms.EVALUATION_CROPS`.
      decoding: of their files.
      bad_records: where records that cannot be used, which are left out, are reported.

    Raises:
      DataError: while iterating; a record cannot be used, or too many cannot.
    """
    local_indices = np.split(np.arange(batch_size), jax.process_count())[jax.process_index()]
    local_batches = evaluation_batches(
        Subset(source, indices),
        batch_size,
        resolution=resolution,
        crop=crop,
        decoding=decoding,
        bad_records=bad_records,
        local_indices=local_indices,
    )
    for number, local in enumerate(local_batches):
        good = np.flatnonzero(hosts.concatenate(local["mask"]))
        if good.size:
            filled = good[np.minimum(np.arange(batch_size), good.size - 1)]
            yield Batch(
                hosts.concatenate(to_uint8(local["image"]))[filled],
                np.asarray(indices)[number * batch_size + filled],
                _concatenate_names(local["name"])[filled],
                good.size,
            )


class CroppedImages:
    """Photos of any size as a reference: their crops.

    Args:
      path: a folder of them, 'photos', 'array_record:DIR' or 'tfds:NAME', of which 'train'.
      size: of the crops.
      crop: one of `transforms.EVALUATION_CROPS`.
      decoding: of their files.

    Raises:
      DataError: they cannot be read.
    """

    def __init__(self, path: str, size: int, *, crop: str, decoding: ImageDecoding):
        self.path, self._size, self._crop, self._decoding = path, size, crop, decoding
        self._source = open_data(path, "train").source

    def __len__(self) -> int:
        return len(self._source)

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """All of them, uint8 `[B, size, size, 3]`, `size` at a time and the rest.

        Raises:
          DataError: one cannot be read.
        """
        indices, bad_records = range(len(self)), BadRecords(0, len(self), "take it out")
        for batch in batches(
            self._source,
            indices,
            batch_size=size,
            resolution=self._size,
            crop=self._crop,
            decoding=self._decoding,
            bad_records=bad_records,
        ):
            yield batch.images[: batch.count]

    def moments(self, dim: int) -> None:
        """They have no moments."""
        del dim


def _concatenate_names(names: np.ndarray) -> np.ndarray:
    """Concatenates names of all processes, as numbers, which `hosts.concatenate` takes."""
    numbers = np.ascontiguousarray(names).view(np.uint32).reshape(len(names), -1)
    return np.ascontiguousarray(hosts.concatenate(numbers)).view(names.dtype)[:, 0]
