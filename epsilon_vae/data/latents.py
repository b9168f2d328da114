"""Latents as `epsilon_vae.encode` writes them: an index, shards, records; and batches of them.

A folder holds one data set: `latents-00000.array_record`… and, written last, `latents.json`.
"""

import math
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from epsilon_vae.data.array_records import ShardRecords, check_list, check_names
from epsilon_vae.data.decode import MAX_PIXELS, DataError
from epsilon_vae.data.files import filesystem, read_json
from epsilon_vae.data.pipeline import Batch, EndlessBatches, record_at
from epsilon_vae.data.records import check_label, pack_fields, unpack_fields
from epsilon_vae.errors import reason

VERSION = 1  # of the format
INDEX, UNFINISHED = "latents.json", "latents.unfinished.json"
DTYPES = ("float16", "bfloat16")


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
    return pack_fields(fields | {k: fields[k].tobytes() for k in ("latents", "flipped")})


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
      DataError: a damaged record, of another shape, or not finite.
    """
    try:
        fields = unpack_fields(data, {"latents": bytes, "flipped": bytes})
        for name in ("latents", "flipped"):
            fields[name] = np.frombuffer(fields[name], dtype).reshape(shape)
            if not np.isfinite(fields[name]).all():
                raise ValueError(f"{name} are not finite")
        return LatentRecord(**fields)
    except ValueError as error:
        raise DataError(f"{title}: not a record of epsilon_vae.encode ({error})") from error


class Normalization(NamedTuple):
    """Mean and standard deviation of each channel of latents, lists of n_z."""

    mean: list[float]
    std: list[float]

    def check(self, n_z: int) -> None:
        """Raises `ValueError` for other types, lengths or ranges."""
        for name, values in self._asdict().items():
            if not _is_list(values, (int, float)) or len(values) != n_z:
                raise ValueError(f"{name} must be {n_z} numbers")
            if not all(abs(value) <= sys.float_info.max for value in values):
                raise ValueError(f"{name} is not finite")
        if min(self.std) < 0:
            raise ValueError("std has a negative deviation")

    def normalize(self, latents: np.ndarray) -> np.ndarray:
        """Float32, of mean 0 and deviation 1 by channel; a channel that never varies stays 0."""
        return ((latents.astype(np.float64) - self.mean) / self.scale()).astype(np.float32)

    def denormalize(self, latents: np.ndarray) -> np.ndarray:
        """Back to float32 as the decoder takes them."""
        return (latents.astype(np.float64) * self.scale() + self.mean).astype(np.float32)

    def scale(self) -> np.ndarray:
        """The deviations `[n_z]`, 1 for a channel that never varies."""
        std = np.array(self.std)
        return np.where(std > 0, std, 1)


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
        """Reads the metadata in a checkpoint, where older versions call `provenance` `made_by`.

        Raises:
          DataError: they are none.
        """
        renamed = {"made_by": "provenance"}
        try:
            found = cls(**{renamed.get(name, name): value for name, value in stored.items()})
            found.check()
        except (AttributeError, TypeError, ValueError) as error:
            raise DataError(f"metadata of latents that cannot be used ({error})") from error
        return found

    def check(self) -> None:
        """Raises `ValueError` for metadata that are of other types, shapes or ranges."""
        shape = self.shape
        if not (_is_list(shape, int) and len(shape) == 3 and min(shape) > 0):
            raise ValueError(f"shape must be [h, w, n_z], not {shape!r:.50}")
        if math.prod(shape) > MAX_PIXELS:
            raise ValueError(f"shape {shape} is too large")
        self.normalization.check(shape[-1])
        check_names("classes", self.classes)
        kinds = {"workdir": str, "step": int, "encoder_sha256": str}
        provenance = self.provenance
        if not isinstance(provenance, dict) or not all(
            isinstance(provenance.get(name), kind) for name, kind in kinds.items()
        ):
            raise ValueError(f"the checkpoint must have {', '.join(kinds)}")

    @property
    def normalization(self) -> Normalization:
        """Mean and deviation, as an `Autoencoder` takes them."""
        return Normalization(self.mean, self.std)

    def continuing(self, before: "LatentMetadata") -> "LatentMetadata":
        """These, by the mean and deviation of a run that began on `before` and resumes on these.

        Raises:
          DataError: they are of another encoder.
        """
        before.check_encoder(self.provenance["encoder_sha256"])
        return self._replace(mean=before.mean, std=before.std)

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
        self.metadata = _metadata(index)
        self._dtype = jnp.dtype(index["dtype"])
        self._records = ShardRecords(path, index["shards"], title=path, writer="epsilon_vae.encode")

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> LatentRecord:
        title = f"{self.path}[{index}]"
        record = unpack_latents(
            self._records[index], self.metadata.shape, dtype=self._dtype, title=title
        )
        check_label(record.label, self.metadata.classes, title)
        return record


def _is_list(values: Any, kind: type | tuple[type, ...]) -> bool:
    return isinstance(values, (list, tuple)) and all(
        isinstance(value, kind) and not isinstance(value, bool) for value in values
    )


def _metadata(index: dict[str, Any]) -> LatentMetadata:
    fields = {name: index.get(name) for name in ("shape", "mean", "std", "classes")}
    return LatentMetadata(**fields, provenance=index.get("checkpoint"))


def _read_index(path: str) -> dict[str, Any]:
    files, root = filesystem(path)
    try:
        if not files.exists(f"{root}/{INDEX}"):
            if files.exists(f"{root}/{UNFINISHED}"):
                raise DataError(f"{path}: unfinished; run the same epsilon_vae.encode again")
            raise DataError(f"{path}: no {INDEX} in it; epsilon_vae.encode makes such folders")
        index = read_json(files, f"{root}/{INDEX}")
        check_list(index)
        version = index["version"]
        if type(version) is int and version != VERSION:
            raise DataError(
                f"{path}: latents of format {version}, this program reads {VERSION}; encode anew "
                "with epsilon_vae.encode"
            )
        _check_index(index)
    except DataError:
        raise
    except Exception as error:  # not JSON, or what a cloud's client raises
        words = f"{error} is missing" if isinstance(error, KeyError) else reason(error)
        raise DataError(
            f"{path}: {INDEX} cannot be read ({words}); copy it again, or encode anew with "
            "epsilon_vae.encode"
        ) from error
    return index


def _check_index(index: dict[str, Any]) -> None:
    """Raises `ValueError` for an index with entries of other types, shapes or ranges."""
    if type(index["version"]) is not int:
        raise ValueError(f"version must be {VERSION}")
    if index["dtype"] not in DTYPES:
        raise ValueError(f"dtype must be {' or '.join(DTYPES)}")
    count = sum(index["shards"].values())
    if not count or index.get("num_records", count) != count:
        raise ValueError(f"its shards have {count} records")
    _metadata(index).check()


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
        latents = self.metadata.normalization.normalize(record.flipped if flip else record.latents)
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
