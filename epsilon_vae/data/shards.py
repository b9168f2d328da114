"""Writes shards, of images for `array_records.ArrayRecords` first; a kill costs no more than one.

A shard takes a fixed range of the images, so its bytes do not depend on how often it was started.
It gets its name once it has been read back. `SPLIT.unfinished.json` lists the shards that have
theirs; the last one makes it `SPLIT.json`.
"""

import collections
import itertools
import os
import pathlib
import shutil
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

from absl import logging
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from tqdm import tqdm

from epsilon_vae.data.array_records import check_list, check_names, check_path, count_records
from epsilon_vae.data.decode import (
    DEFAULT,
    MAX_FILE_BYTES,
    DataError,
    DecodeError,
    EncodedImage,
    ImageDecoding,
)
from epsilon_vae.data.images import Images
from epsilon_vae.data.records import Record, pack
from epsilon_vae.names import printable
from epsilon_vae.output import replacing
from epsilon_vae.resumable import OtherPlanError, ResumableFolder

# Each record is read on its own; images are compressed already.
WRITER_OPTIONS = "group_size:1,uncompressed"
# They check images; PIL lets go of Python's lock. Two images each are in memory.
THREADS = os.cpu_count() or 1

In, Out = TypeVar("In"), TypeVar("Out")


class BadImageError(DataError):
    """An image that cannot be decoded."""


class Checked(NamedTuple):
    """A packed record, or what is wrong with the image."""

    index: int
    record: bytes
    reason: str


class ShardWriter:
    """Shards of one split in a folder, finished or not.

    Args:
      folder: that exists.
      split: its name.
      images: of the split.
      records_per_shard: images a shard, of which bad ones may be left out.
      decoding: which images can be read.

    Attributes:
      manifest: what `SPLIT.json` says: `shards`, file names and their numbers of records;
        `classes`; `skipped`, names of images left out; `plan`, what it was made from.

    Raises:
      DataError: a folder whose name is no UTF-8.
      OtherPlanError: the folder has the split already, made from something else.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        split: str,
        *,
        images: Images,
        records_per_shard: int,
        decoding: ImageDecoding = DEFAULT,
    ):
        check_path(str(folder))
        self._folder, self._split, self._images = folder, split, images
        self._records_per_shard, self._decoding = records_per_shard, decoding
        plan = make_plan(images, records_per_shard)
        self._job = ResumableFolder(
            folder, f"{split}.json", unfinished=f"{split}.unfinished.json", plan=plan, within="plan"
        )
        new = {"shards": {}, "classes": list(images.classes), "skipped": [], "plan": plan}
        self.manifest = self._job.read() or new
        try:
            check_list(self.manifest)
            check_names("skipped", self.manifest.get("skipped"))
        except ValueError as error:
            raise OtherPlanError(
                f"{folder}: {split}'s list of shards is damaged ({error})"
            ) from error

    def write(self, *, skip_bad: bool) -> bool:
        """Writes the shards that are missing or damaged; False if none is.

        Args:
          skip_bad: images that cannot be decoded are left out; else the first raises.

        Raises:
          BadImageError: an image cannot be decoded.
          DataError: no image can, or the disk is too small.
          OutputError: the disk is full or not writable.
        """
        missing = self._missing_shards()
        if not missing and self._job.is_finished:
            return False
        indices = [index for shard in missing for index in self._range(shard)]
        sizes = self._images.sizes[indices]
        needed = int(sizes[sizes <= MAX_FILE_BYTES].sum())  # what is larger is a bad image
        check_space(self._folder, needed, "images")
        self._job.save(self.manifest)
        bar = tqdm(
            total=len(self._images),
            initial=len(self._images) - len(indices),
            unit="image",
            disable=not sys.stderr.isatty(),
        )
        with bar, ThreadPoolExecutor(THREADS) as pool:
            encoded = ((index, *self._read(index)) for index in indices)
            checked = map_ahead(pool, self._check, items=encoded, ahead=2 * THREADS)
            for shard in missing:
                of_shard = itertools.islice(checked, len(self._range(shard)))
                self._write_shard(shard, of_shard, skip_bad=skip_bad, bar=bar)
        if not self.manifest["shards"]:
            raise DataError(f"{self._images.path}: no image that can be decoded")
        self._job.finish(self.manifest)
        return True

    def _range(self, shard: int) -> range:
        start = shard * self._records_per_shard
        return range(start, min(start + self._records_per_shard, len(self._images)))

    def _path(self, shard: int) -> pathlib.Path:
        return self._folder / f"{self._split}-{shard:05d}.array_record"

    def _missing_shards(self) -> list[int]:
        """Shards that do not hold all images of their range but the skipped; it reads none."""
        skipped = set(self.manifest["skipped"])
        missing = []
        for shard in range(-(-len(self._images) // self._records_per_shard)):
            path = self._path(shard)
            wanted = sum(self._images.names[index] not in skipped for index in self._range(shard))
            listed = self.manifest["shards"].get(path.name, 0)
            if listed != wanted or (wanted and count_records(str(path)) != wanted):
                missing.append(shard)
        return missing

    def _read(self, index: int) -> tuple[bytes, str]:
        """The bytes of an image, or what is wrong with its file."""
        try:
            return self._images.read(index), ""
        except DataError as error:
            return b"", str(error)

    def _check(self, encoded: tuple[int, bytes, str]) -> Checked:
        index, data, problem = encoded
        if problem:
            return Checked(index, b"", problem)
        name = self._images.names[index]
        try:
            EncodedImage(data, self._decoding).rgb_reduced(1 / 8)
        except DecodeError as error:
            problem = f"{self._images.path}: {name}: not a readable image ({error})"
            return Checked(index, b"", problem)
        return Checked(index, pack(Record(data, self._images.labels[index], name)), "")

    def _write_shard(
        self, shard: int, checked: Iterator[Checked], *, skip_bad: bool, bar: tqdm
    ) -> None:
        skipped = []

        def good() -> Iterator[bytes]:
            for index, record, reason in checked:
                bar.update()
                if not reason:
                    yield record
                    continue
                if not skip_bad:
                    raise BadImageError(reason)
                logging.warning("Left out: %s", printable(reason))
                skipped.append(self._images.names[index])

        path = self._path(shard)
        count = write_shard(path, good())
        if count:
            self.manifest["shards"][path.name] = count
        self.manifest["skipped"] = sorted({*self.manifest["skipped"], *skipped})
        self._job.save(self.manifest)


def make_plan(images: Images, records_per_shard: int) -> dict[str, object]:
    """All that the bytes of the shards depend on, but for the images' own."""
    checksum = 0
    for name, size, label in zip(images.names, images.sizes, images.labels, strict=True):
        checksum = zlib.crc32(f"{name!a} {size} {label}\n".encode(), checksum)
    return {
        "input": os.path.basename(os.path.abspath(images.path)),
        "records_per_shard": records_per_shard,
        "images": len(images),
        "bytes": int(images.sizes.sum()),
        "classes": len(images.classes),
        "checksum of names, sizes, labels": checksum,
    }


def check_space(folder: pathlib.Path, needed: int, what: str) -> None:
    """Raises `DataError` where fewer than `needed` bytes are free for `what`."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DataError(
            f"{folder}: {free / 2**30:.1f} GiB are free, {needed / 2**30:.1f} GiB of {what} are "
            "to be written; free some, or write to another disk"
        )


def write_shard(path: pathlib.Path, records: Iterable[bytes]) -> int:
    """Writes records, reads them back, and then calls the file `path`; returns their number.

    Nothing is left of a shard that fails, and none is made of no records.

    Raises:
      OutputError: the disk is full or not writable, or reads back other bytes.
    """
    records, checksums = iter(records), []
    first = list(itertools.islice(records, 1))
    if not first:
        return 0
    with replacing(path) as partial:
        try:
            writer = ArrayRecordWriter(str(partial), WRITER_OPTIONS)
            for record in itertools.chain(first, records):
                writer.write(record)
                checksums.append(zlib.crc32(record))
            writer.close()
        except RuntimeError as error:  # the C++ writer's
            raise OSError(str(error).split(";")[0]) from error
        if _read_checksums(partial) != checksums:
            raise OSError("the disk reads back other bytes than were written")
    return len(checksums)


def map_ahead(
    pool: ThreadPoolExecutor, function: Callable[[In], Out], *, items: Iterable[In], ahead: int
) -> Iterator[Out]:
    """Maps as `pool.map` does, which would take all the items at once; this takes `ahead`.

    Args:
      pool: of threads.
      function: of an item.
      items: to map over.
      ahead: how many items are taken before their results are asked for.
    """
    items = iter(items)
    pending = collections.deque(pool.submit(function, x) for x in itertools.islice(items, ahead))
    while pending:
        yield pending.popleft().result()
        pending.extend(pool.submit(function, x) for x in itertools.islice(items, 1))


def _read_checksums(path: pathlib.Path) -> list[int]:
    reader = ArrayRecordReader(str(path))
    return [zlib.crc32(reader.read()) for _ in range(reader.num_records())]
