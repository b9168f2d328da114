"""A data set becomes latents: each process writes shards of its own, process 0 then the index.

A shard is a fixed range of the records, and has its name once it has been read back. So what is
finished is seen from the folder, and neither stops, devices nor processes change what is written.
"""

import functools
import itertools
import math
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from array_record.python.array_record_module import ArrayRecordReader
from tqdm import tqdm

from epsilon_vae.config import ConfigError
from epsilon_vae.data.array_records import check_path, count_records
from epsilon_vae.data.decode import DataError, ImageDecoding
from epsilon_vae.data.latents import (
    INDEX,
    UNFINISHED,
    VERSION,
    LatentRecord,
    Normalization,
    pack_latents,
    shard_name,
    unpack_latents,
)
from epsilon_vae.data.named import Data
from epsilon_vae.data.pipeline import BadRecords, evaluation_batches
from epsilon_vae.data.records import Record
from epsilon_vae.data.shards import check_space, write_shard
from epsilon_vae.data.sources import Subset, evenly_spaced
from epsilon_vae.inference.autoencoder import Autoencoder
from epsilon_vae.inference.sharing import normalization_of
from epsilon_vae.parallel import hosts
from epsilon_vae.parallel.batch import IMAGES_PER_DEVICE
from epsilon_vae.resumable import OtherPlanError, ResumableFolder
from epsilon_vae.versions import versions

# A record's bytes besides its latents.
RECORD_OVERHEAD = 256
# The number of images whose latents give the mean and deviation for normalization.
NORMALIZATION_IMAGES = 1024
# What must be the same for a folder of latents to be resumed.
FIXED = ("version", "data", "num_records", "resolution", "crop", "dtype", "records_per_shard")


class ChannelStatistics(NamedTuple):
    """Statistics of values by channel: number, mean `[n_z]`, sum of (x - mean)² `[n_z]`.

    All float64; merged as Chan et al. 1983.
    """

    count: float
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def of(cls, latents: np.ndarray) -> "ChannelStatistics":
        """Statistics of latents `[…, n_z]`."""
        values = latents.reshape(-1, latents.shape[-1]).astype(np.float64)
        mean = values.mean(axis=0)
        return cls(float(len(values)), mean, np.square(values - mean).sum(axis=0))

    def merge(self, other: "ChannelStatistics") -> "ChannelStatistics":
        """Statistics of the values of both."""
        count = self.count + other.count
        shift = other.mean - self.mean
        return ChannelStatistics(
            count,
            self.mean + shift * (other.count / count),
            self.scatter + other.scatter + shift**2 * (self.count * other.count / count),
        )

    def std(self) -> np.ndarray:
        """Standard deviation (over N), `[n_z]`."""
        return np.sqrt(self.scatter / self.count)


def measure_latents(
    autoencoder: Autoencoder,
    source: Sequence[Record],
    data: ml_collections.ConfigDict,
    *,
    batch_size: int,
) -> Normalization | None:
    """Mean and deviation of the latents of some images; None where none of them can be read.

    Processes call alike, and encode as many batches, also where one cannot read an image.

    Args:
      autoencoder: that encodes.
      source: of the images.
      data: `config.data`, of their crops.
      batch_size: that they are encoded in.
    """
    some = Subset(source, evenly_spaced(len(source), NORMALIZATION_IMAGES))
    statistics = []
    image_batches = evaluation_batches(
        some,
        batch_size,
        resolution=data.resolution,
        crop="center_crop_adm",
        decoding=ImageDecoding.of(data),
        bad_records=None,  # whoever trains on them names them
    )
    for batch in image_batches:
        latents = autoencoder.encode(batch["image"])[batch["mask"]]
        statistics += [ChannelStatistics.of(latents)] if len(latents) else []
    if not statistics:
        return None
    found = functools.reduce(ChannelStatistics.merge, statistics)
    return Normalization(found.mean.tolist(), found.std().tolist())


def encode_data(
    autoencoder: Autoencoder,
    workdir: str,
    *,
    data: Data,
    output: str,
    resolution: int,
    crop: str,
    dtype: str,
    records_per_shard: int,
    workers: int = 0,
) -> tuple[dict[str, Any], int]:
    """Writes the latents of all images, and of their mirror images; all processes call alike.

    Args:
      autoencoder: on devices of this process.
      workdir: that it was restored from, as given.
      data: the images.
      output: folder; the same call resumes from what it holds.
      resolution: of the crops.
      crop: one of `transforms.EVALUATION_CROPS`.
      dtype: of what is stored, 'float16' or 'bfloat16'.
      records_per_shard: images a shard.
      workers: processes that decode images; 0 for threads.

    Returns:
      The index, as `latents.json` holds it, on process 0 (on others what they know of it); and how
      many images all processes have encoded: 0 where all was done.

    Raises:
      ConfigError: a resolution that the networks do not take.
      PlanError: the folder holds other latents, or is not the same for all processes.
      DataError: a folder whose name is no UTF-8; an image that cannot be read; a disk that is too
        small; latents that are not finite.
      OutputError: a disk that is full or not writable.
    """
    begin = time.monotonic()
    check_path(output)
    folder = pathlib.Path(output)
    plan = _plan(autoencoder, workdir, data, resolution, crop, dtype, records_per_shard)
    fixed = {key: plan[key] for key in FIXED}
    job = ResumableFolder(folder, INDEX, unfinished=UNFINISHED, plan=fixed)
    is_done = job.start(
        plan,
        # Files' times may differ where each host has its own.
        same=fixed | {"checkpoint": plan["checkpoint"], "data": data.name},
        check=functools.partial(_check_encoder, folder, plan),
    )
    indices = range(plan["num_records"])
    shards = [indices[i : i + records_per_shard] for i in indices[::records_per_shard]]
    own = {i: shards[i] for i in range(jax.process_index(), len(shards), jax.process_count())}
    missing = [i for i in own if count_records(str(folder / shard_name(i))) != len(own[i])]
    num_missing = hosts.total(sum(len(own[i]) for i in missing))
    if is_done and not num_missing:
        return job.read(), 0

    if hosts.is_first():
        job.save(plan)
    size = 2 * math.prod(plan["shape"]) * jnp.dtype(dtype).itemsize + RECORD_OVERHEAD
    check_space(folder, num_missing * size, "latents")
    table = np.zeros((len(shards), 1 + 2 * plan["n_z"]))
    for number, row in _write(autoencoder, data.source, folder, plan, own, missing, workers):
        table[number] = row
    found = _merge(_from_all(table))
    measured = {"mean": found.mean.tolist(), "std": found.std().tolist()}
    index = plan | {
        "shards": {shard_name(i): len(shard) for i, shard in enumerate(shards)},
        **normalization_of(autoencoder.config, measured)._asdict(),
        "versions": versions(),
        "seconds": round(time.monotonic() - begin, 1),
    }
    if hosts.is_first():
        job.finish(index)
    hosts.barrier("latents written")
    return index, num_missing


def _write(
    autoencoder: Autoencoder,
    source: Sequence[Record],
    folder: pathlib.Path,
    plan: dict[str, Any],
    own: dict[int, range],
    missing: Sequence[int],
    workers: int,
) -> Iterator[tuple[int, np.ndarray]]:
    """Reads this process's finished shards, and writes those that are missing: their statistics.

    Args:
      autoencoder, workers: as `encode_data`'s.
      source: of all images.
      folder, plan: of the latents.
      own: this process's shards, with the indices of their records.
      missing: those that are to be written.
    """
    hidden = None if hosts.is_first() else True  # None: shown on a terminal
    total = sum(map(len, own.values()))
    with tqdm(total=total, unit="image", dynamic_ncols=True, disable=hidden) as bar:
        for number in sorted(own.keys() - set(missing)):
            records = _read_shard(folder / shard_name(number), plan)
            bar.update(len(records))
            yield number, _statistics(records)
        todo = Subset(source, list(itertools.chain(*(own[i] for i in missing))))
        encoded = _encode(autoencoder, todo, plan, workers, bar)
        for number in missing:
            # All of them before writing: what fails there is the disk.
            records = list(itertools.islice(encoded, len(own[number])))
            write_shard(folder / shard_name(number), map(pack_latents, records))
            yield number, _statistics(records)


def _plan(
    autoencoder: Autoencoder,
    workdir: str,
    data: Data,
    resolution: int,
    crop: str,
    dtype: str,
    records_per_shard: int,
) -> dict[str, Any]:
    """All that is known of the latents before they are there."""
    networks = autoencoder.networks
    if resolution % networks.multiple:
        near = max(1, round(resolution / networks.multiple)) * networks.multiple
        raise ConfigError(
            f"resolution {resolution}: the networks of {workdir} take multiples of "
            f"{networks.multiple}; {near} would do"
        )
    side, n_z = resolution // networks.f, networks.encoder.n_z
    return {
        "version": VERSION,
        "checkpoint": autoencoder.provenance(workdir),
        "data": {"source": data.name} | data.metadata(),
        "num_records": len(data.source),
        "resolution": resolution,
        "crop": crop,
        "f": networks.f,
        "n_z": n_z,
        "shape": [side, side, n_z],
        "dtype": dtype,
        "records_per_shard": records_per_shard,
        "classes": list(getattr(data.source, "classes", ())),
        "config": autoencoder.config.to_dict(),
    }


class OtherEncoderError(OtherPlanError):
    """A folder with latents of another checkpoint."""


def _check_encoder(
    folder: pathlib.Path, plan: Mapping[str, Any], content: Mapping[str, Any]
) -> None:
    """Raises `OtherPlanError` for a folder with shards of another encoder, or of an unknown one."""
    before = content.get("checkpoint", plan["checkpoint"])
    if not (isinstance(before, dict) and {"encoder_sha256", "workdir", "step"} <= before.keys()):
        raise OtherPlanError(f"{folder}: its list of latents is damaged: no checkpoint in it")
    if before["encoder_sha256"] != plan["checkpoint"]["encoder_sha256"]:
        raise OtherEncoderError(
            f"{folder}: latents of another checkpoint, {before['workdir']} step {before['step']}"
        )
    if not content and any(folder.glob("*.array_record")):
        raise OtherPlanError(f"{folder}: has shards, but no {INDEX} that says of what")


def _read_shard(path: pathlib.Path, plan: dict[str, Any]) -> list[LatentRecord]:
    """Records of a finished shard, for their statistics."""
    reader, dtype = ArrayRecordReader(str(path)), jnp.dtype(plan["dtype"])
    try:
        records = [reader.read() for _ in range(reader.num_records())]
    except Exception as error:  # the C++ reader's, of many kinds
        raise DataError(f"{path}: damaged ({error}); remove it and run the same again") from error
    return [unpack_latents(data, plan["shape"], dtype=dtype, title=str(path)) for data in records]


def _encode(
    autoencoder: Autoencoder,
    source: Sequence[Record],
    plan: dict[str, Any],
    workers: int,
    bar: tqdm,
) -> Iterator[LatentRecord]:
    """Records of all images, in order."""
    bad_records = BadRecords(0, len(source), "replace it, or take it out of the data")
    size = IMAGES_PER_DEVICE * jax.local_device_count()
    dtype = jnp.dtype(plan["dtype"])
    image_batches = evaluation_batches(
        source,
        size,
        resolution=plan["resolution"],
        crop=plan["crop"],
        decoding=ImageDecoding.of(autoencoder.config.data),
        bad_records=bad_records,
        workers=workers,
    )
    for batch in image_batches:
        images = batch["image"]
        latents = autoencoder.encode(np.concatenate([images, images[:, :, ::-1]]))
        with np.errstate(over="ignore"):  # said below
            plain, flipped = np.split(latents.astype(dtype), 2)
        for i in np.flatnonzero(batch["mask"]):
            label = int(batch["label"][i])
            name = str(batch["name"][i])
            if not (np.isfinite(plain[i]).all() and np.isfinite(flipped[i]).all()):
                raise DataError(
                    f"{name}: latents that {dtype} does not hold, or not finite; bfloat16 holds "
                    "larger ones"
                )
            bar.update()
            yield LatentRecord(
                latents=plain[i], flipped=flipped[i], label=None if label < 0 else label, name=name
            )


def _statistics(records: Sequence[LatentRecord]) -> np.ndarray:
    """Statistics of a shard, `[1 + 2 n_z]`; no more than one record is in memory as float64."""
    each = (ChannelStatistics.of(np.stack([r.latents, r.flipped])) for r in records)
    found = functools.reduce(ChannelStatistics.merge, each)
    return np.concatenate([[found.count], found.mean, found.scatter])


def _from_all(table: np.ndarray) -> np.ndarray:
    """The processes' statistics of shards; each has zeros for the others'.

    As halves of their bits: JAX would round float64.
    """
    halves = hosts.concatenate(np.ascontiguousarray(table).view(np.uint32)[None])
    return np.ascontiguousarray(halves).view(np.float64).sum(axis=0)


def _merge(table: np.ndarray) -> ChannelStatistics:
    """Merges the statistics of all shards, in their order."""
    rows = (ChannelStatistics(row[0], *np.split(row[1:], 2)) for row in table)
    return functools.reduce(ChannelStatistics.merge, rows)
