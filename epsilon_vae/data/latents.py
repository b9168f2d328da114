"""Latents as `epsilon_vae.encode` writes them: an index, shards, records; and batches of them.

A folder holds one data set: `latents-00000.array_record`… and, written last, `latents.json`.
"""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import msgpack
import numpy as np

from epsilon_vae.data.array_records import ShardRecords
from epsilon_vae.data.decode import DataError
from epsilon_vae.data.files import filesystem
from epsilon_vae.data.pipeline import Batch, EndlessBatches, record_at

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


def unpack_latents(
    data: bytes, shape: Sequence[int], *, dtype: np.dtype, title: str
) -> LatentRecord:
    """Reads what `pack_latents` wrote.

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


class LatentMetadata(NamedTuple):
    """Describes latents, as training on them and decoding others like them need it.

    Attributes:
      shape: `[h, w, n_z]`, as a list.
      mean, std: of each channel, lists of n_z.
      classes: their names, if known; a label is an index into them.
      provenance: `workdir`, `step`, `weights` and `encoder_sha256` of the autoencoder.
    """

    shape: list[int]
    mean: list[float]
    std: list[float]
    classes: list[str]
    provenance: dict[str, Any]

    @classmethod
    def of(cls, stored: dict[str, Any]) -> "LatentMetadata":
        """Reads the metadata in a checkpoint, where older versions call `provenance` `made_by`."""
        renamed = {"made_by": "provenance"}
        return cls(**{renamed.get(name, name): value for name, value in stored.items()})

    def normalize(self, latents: np.ndarray) -> np.ndarray:
        """Float32, of mean 0 and deviation 1 by channel; a channel that never varies stays 0."""
        return ((latents.astype(np.float64) - self.mean) / self._scale()).astype(np.float32)

    def denormalize(self, latents: np.ndarray) -> np.ndarray:
        """Back to float32 as the decoder takes them."""
        return (latents.astype(np.float64) * self._scale() + self.mean).astype(np.float32)

    def continuing(self, before: "LatentMetadata") -> "LatentMetadata":
        """These, by the mean and deviation of a run that began on `before` and resumes on these.

        Raises:
          DataError: they are of another encoder.
        """
        before.check_encoder(self.provenance["encoder_sha256"])
        return self._replace(mean=before.mean, std=before.std)

    def _scale(self) -> np.ndarray:
        std = np.array(self.std)
        return np.where(std > 0, std, 1)

    def check_encoder(self, fingerprint: str) -> None:
        """Refuses an autoencoder whose encoder did not make them.

        Decoders that were trained on one frozen encoder, and later steps of them, all fit.

        Args:
          fingerprint: `Autoencoder.encoder_fingerprint` of it.

        Raises:
          DataError: another encoder.
        """
        provenance = self.provenance
        if provenance["encoder_sha256"] != fingerprint:
            raise DataError(
                f"latents of {provenance['workdir']}, step {provenance['step']} (encoder "
                f"{provenance['encoder_sha256'][:12]}), but this decoder's encoder is another "
                f"({fingerprint[:12]}); take that checkpoint, or encode anew with "
                "epsilon_vae.encode"
            )


class Latents(Sequence[LatentRecord]):
    """Latents of a data set, by index, in the order of the data.

    Args:
      path: folder that `epsilon_vae.encode` wrote, gs:// too.

    Attributes:
      metadata: of the data set, mirror images counted in.

    Raises:
      DataError: no such folder, unfinished, of another version, or shards that do not fit.
    """

    def __init__(self, path: str):
        self.path = path.rstrip("/")
        index = _read_index(self.path)
        metadata = {name: index[name] for name in ("shape", "mean", "std", "classes")}
        self.metadata = LatentMetadata(**metadata, provenance=index["checkpoint"])
        self._dtype = jnp.dtype(index["dtype"])
        self._records = ShardRecords(path, index["shards"], title=path, writer="epsilon_vae.encode")

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> LatentRecord:
        title = f"{self.path}[{index}]"
        return unpack_latents(
            self._records[index], self.metadata.shape, dtype=self._dtype, title=title
        )


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


class LatentBatches(EndlessBatches):
    """Endless batches of latents; see `EndlessBatches`.

    A batch is `latents`, float32 `[P, h, w, n_z]`, of mean 0 and deviation 1 by channel over the
    data set, and `label`, int32 `[P]`, -1 where there is none. Whether a record is taken mirrored
    depends on (seed, epoch, record index) alone.

    Args:
      source: of the latents.
      batch_size: B, of all processes together.
      seed: of order and flips.
      flip: every second record, by chance, is the mirror image's.
      local_indices: which P places of each batch, in 0 … B - 1, this process reads; None for all.

    Attributes:
      metadata: of the latents.

    Raises:
      DataError: while iterating; a record cannot be read.
    """

    num_bad_records = 0  # the first raises

    def __init__(
        self,
        source: Latents,
        batch_size: int,
        *,
        seed: int,
        flip: bool = True,
        local_indices: Sequence[int] | None = None,
    ):
        self._source, self._seed, self._flip = source, seed, flip
        self.metadata = source.metadata
        super().__init__(self._element, batch_size, local_indices=local_indices)

    def _element(self, position: int) -> Batch:
        epoch, index = record_at(position, len(self._source), self._seed)
        record = self._source[index]
        rng = np.random.default_rng((self._seed, epoch, index))
        flip = self._flip and rng.random() < 0.5
        latents = self.metadata.normalize(record.flipped if flip else record.latents)
        return {"latents": latents, "label": np.int32(-1 if record.label is None else record.label)}

    def get_state(self) -> dict[str, Any]:
        """The position, as `EndlessBatches` has it, and the metadata of the latents."""
        return super().get_state() | {"latents": self.metadata._asdict()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Resumes as `EndlessBatches` does, with the mean and deviation that the run began with.

        Raises:
          DataError: the state is of another encoder's latents.
        """
        self.metadata = self.metadata.continuing(LatentMetadata.of(state["latents"]))
        super().set_state(state)
