"""Latents as `epsilon_vae.encode` writes them: an index, shards, records; and batches of them.

A folder holds one data set: `latents-00000.array_record`… and, written last, `latents.json`.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import msgpack
import numpy as np

from epsilon_vae.data.decode import DataError
from epsilon_vae.data.pipeline import Batch, EndlessBatches, record_at
from epsilon_vae.data.sources import ShardRecords, filesystem

VERSION = 1  # of the format
INDEX, UNFINISHED = "latents.json", "latents.unfinished.json"


class LatentRecord(NamedTuple):
    """Latents `[h, w, n_z]` of an image and of its mirror image, its class if any, its name."""

    latents: np.ndarray
    flipped: np.ndarray
    label: int | None
    name: str


def shard_name(number: int) -> str:
    """'latents-00012.array_record'."""
    return f"latents-{number:05d}.array_record"


def pack_latents(record: LatentRecord) -> bytes:
    """A record as shards hold it; shape and type are the index's."""
    fields = record._asdict()
    return msgpack.packb(fields | {k: fields[k].tobytes() for k in ("latents", "flipped")})


def unpack_latents(data: bytes, shape: Sequence[int], dtype: np.dtype, title: str) -> LatentRecord:
    """What `pack_latents` wrote.

    Args:
      data: of a record.
      shape: `[h, w, n_z]`.
      dtype: of the numbers.
      title: of the record, for the message.

    Raises:
      DataError: a damaged record, or of another shape.
    """
    try:
        fields = msgpack.unpackb(data)
        for name in ("latents", "flipped"):
            fields[name] = np.frombuffer(fields[name], dtype).reshape(shape)
        return LatentRecord(**fields)
    except (ValueError, KeyError, TypeError, msgpack.UnpackException) as error:
        raise DataError(f"{title}: not a record of epsilon_vae.encode ({error})") from error


class Latents(Sequence[LatentRecord]):
    """Latents of a data set, by index, in the order of the data.

    Args:
      path: folder that `epsilon_vae.encode` wrote, gs:// too.

    Attributes:
      index: what `latents.json` says.
      shape: `(h, w, n_z)`.
      mean, std: of each channel over all records and their mirror images, float64 `[n_z]`.
      classes: their names, if known; a label is an index into them.

    Raises:
      DataError: no such folder, unfinished, of another version, or shards that do not fit.
    """

    def __init__(self, path: str):
        self.path = path.rstrip("/")
        self.index = _read_index(self.path)
        self.shape = tuple(self.index["shape"])
        self.mean, self.std = (np.array(self.index[name]) for name in ("mean", "std"))
        self.classes = tuple(self.index["classes"])
        self._dtype = jnp.dtype(self.index["dtype"])
        self._records = ShardRecords(path, self.index["shards"], path, "epsilon_vae.encode")

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> LatentRecord:
        title = f"{self.path}[{index}]"
        return unpack_latents(self._records[index], self.shape, self._dtype, title)


def _read_index(path: str) -> dict[str, Any]:
    files, root = filesystem(path)
    try:
        if not files.exists(f"{root}/{INDEX}"):
            if files.exists(f"{root}/{UNFINISHED}"):
                raise DataError(f"{path}: unfinished; run the same epsilon_vae.encode again")
            raise DataError(f"{path}: no {INDEX} in it; epsilon_vae.encode makes such folders")
        index = json.loads(files.cat_file(f"{root}/{INDEX}"))
        version = index["version"]
    except DataError:
        raise
    except Exception as error:  # not JSON, or what a cloud's client raises
        raise DataError(f"{path}: {INDEX} cannot be read ({error!r})") from error
    if version != VERSION:
        raise DataError(
            f"{path}: latents of format {version}, this program reads {VERSION}; encode anew with "
            "epsilon_vae.encode"
        )
    return index


def check_encoder(index: Mapping[str, Any], fingerprint: str) -> None:
    """Refuses to decode latents with a decoder whose encoder did not make them.

    Decoders that were trained on one frozen encoder, and later steps of them, all fit its latents.

    Args:
      index: of the latents.
      fingerprint: `Autoencoder.encoder_fingerprint` of the decoder's autoencoder.

    Raises:
      DataError: another encoder.
    """
    made_by = index["checkpoint"]
    if made_by["encoder_sha256"] != fingerprint:
        raise DataError(
            f"latents of {made_by['workdir']}, step {made_by['step']} (encoder "
            f"{made_by['encoder_sha256'][:12]}), but this decoder's encoder is another "
            f"({fingerprint[:12]}); take that checkpoint, or encode anew with epsilon_vae.encode"
        )


class LatentBatches(EndlessBatches):
    """Of latents, see `EndlessBatches`.

    A batch is `latents`, float32 `[P, h, w, n_z]`, of mean 0 and deviation 1 by channel over the
    data set, and `label`, int32 `[P]`, -1 where there is none. Whether a record is taken mirrored
    depends on (seed, epoch, record index) alone.

    Args:
      source: of the latents.
      batch_size: B, of all processes together.
      seed: of order and flips.
      flip: every second record, by chance, is the mirror image's.
      places: which P places of each batch, in 0 … B - 1, this process reads; None for all.

    Raises:
      DataError: while iterating; a record cannot be read.
    """

    def __init__(
        self,
        source: Latents,
        batch_size: int,
        seed: int,
        flip: bool = True,
        places: Sequence[int] | None = None,
    ):
        self._source, self._seed, self._flip = source, seed, flip
        # A channel that never varies stays 0.
        self._scale = np.where(source.std > 0, source.std, 1)
        super().__init__(self._element, batch_size, places=places)

    def _element(self, position: int) -> Batch:
        epoch, index = record_at(position, len(self._source), self._seed)
        record = self._source[index]
        rng = np.random.default_rng((self._seed, epoch, index))
        flip = self._flip and rng.random() < 0.5
        latents = (record.flipped if flip else record.latents).astype(np.float64)
        normalized = (latents - self._source.mean) / self._scale
        label = -1 if record.label is None else record.label
        return {"latents": normalized.astype(np.float32), "label": np.int32(label)}
