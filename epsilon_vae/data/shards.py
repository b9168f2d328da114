"""Writes shards, of images for `array_records.ArrayRecords` first; a kill costs no more than one.

A shard takes a fixed range of the images, so its bytes do not depend on how often it was begun. It
gets its name once it has been read back. `SPLIT.unfinished.json` lists the shards that have theirs;
the last one makes it `SPLIT.json`.
"""

import collections
import contextlib
import itertools
import json
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

from epsilon_vae.data.archives import Images, printable
from epsilon_vae.data.array_records import count_records
from epsilon_vae.data.decode import DataError, DecodeError, EncodedImage
from epsilon_vae.data.records import Record, pack

# Each record is read on its own; images are compressed already.
WRITER_OPTIONS = "group_size:1,uncompressed"
# They check images; PIL lets go of Python's lock. Two images each are in memory.
THREADS = os.cpu_count() or 1

In, Out = TypeVar("In"), TypeVar("Out")


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

    Attributes:
      manifest: what `SPLIT.json` says: `shards`, file names and their numbers of records;
        `classes`; `skipped`, names of images left out; `plan`, what it was made from.

    Raises:
      DataError: the folder has the split already, made from something else.
    """

    def __init__(self, folder: pathlib.Path, split: str, *, images: Images, records_per_shard: int):
        self._folder, self._split, self._images = folder, split, images
        self._records_per_shard = records_per_shard
        self._finished = folder / f"{split}.json"
        self._unfinished = folder / f"{split}.unfinished.json"
        plan = make_plan(images, records_per_shard)
        new = {"shards": {}, "classes": list(images.classes), "skipped": [], "plan": plan}
        self.manifest = _load(self._finished) or _load(self._unfinished) or new
        for key, value in plan.items():
            before = self.manifest["plan"].get(key)
            if before != value:
                raise DataError(
                    f"{folder}: split {split!r} was begun with {key} = {before!r}, now it is "
                    f"{value!r}; name another --output, or remove {split}*.json there to write "
                    "it anew"
                )

    def write(self, *, skip_bad: bool) -> bool:
        """Writes the shards that are missing or damaged; False if none is.

        Args:
          skip_bad: images that cannot be decoded are left out; else the first raises.

        Raises:
          DataError: a bad image, or a disk that is too small, full or not writable.
        """
        missing = self._missing_shards()
        if not missing and self._finished.exists():
            return False
        indices = [index for shard in missing for index in self._range(shard)]
        check_space(self._folder, int(self._images.sizes[indices].sum()), "images")
        save_json(self._unfinished, self.manifest)
        self._finished.unlink(missing_ok=True)
        bar = tqdm(
            total=len(self._images),
            initial=len(self._images) - len(indices),
            unit="image",
            disable=not sys.stderr.isatty(),
        )
        with bar, ThreadPoolExecutor(THREADS) as pool:
            encoded = ((index, self._images.read(index)) for index in indices)
            checked = map_ahead(pool, self._check, items=encoded, ahead=2 * THREADS)
            for shard in missing:
                of_shard = itertools.islice(checked, len(self._range(shard)))
                self._write_shard(shard, of_shard, skip_bad=skip_bad, bar=bar)
        if not self.manifest["shards"]:
            raise DataError(f"{self._images.path}: no image that can be decoded")
        save_json(self._finished, self.manifest)
        self._unfinished.unlink()
        return True

    def _range(self, shard: int) -> range:
        start = shard * self._records_per_shard
        return range(start, min(start + self._records_per_shard, len(self._images)))

    def _path(self, shard: int) -> pathlib.Path:
        return self._folder / f"{self._split}-{shard:05d}.array_record"

    def _missing_shards(self) -> list[int]:
        """Those that do not hold all images of their range but the skipped; reads none."""
        skipped = set(self.manifest["skipped"])
        missing = []
        for shard in range(-(-len(self._images) // self._records_per_shard)):
            path = self._path(shard)
            wanted = sum(self._images.names[index] not in skipped for index in self._range(shard))
            listed = self.manifest["shards"].get(path.name, 0)
            if listed != wanted or (wanted and count_records(str(path)) != wanted):
                missing.append(shard)
        return missing

    def _check(self, encoded: tuple[int, bytes]) -> Checked:
        index, data = encoded
        try:
            EncodedImage(data).rgb_reduced(1 / 8)
        except DecodeError as error:
            return Checked(index, b"", str(error))
        name = printable(self._images.names[index])
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
                name = self._images.names[index]
                message = f"{self._images.path}: {printable(name)}: not a readable image ({reason})"
                if not skip_bad:
                    raise DataError(f"{message}; replace it, or set --on_bad_record=skip")
                logging.warning("Left out: %s", message)
                skipped.append(name)

        path = self._path(shard)
        count = write_shard(path, good())
        if count:
            self.manifest["shards"][path.name] = count
        self.manifest["skipped"] = sorted({*self.manifest["skipped"], *skipped})
        save_json(self._unfinished, self.manifest)


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
            "to be written; free some, or name an --output on another disk"
        )


def save_json(path: pathlib.Path, content: dict) -> None:
    """All of it or nothing, whatever happens meanwhile.

    Raises:
      DataError: the disk is full or not writable.
    """
    temporary = path.with_suffix(".new")
    with writing(path):
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)


def write_shard(path: pathlib.Path, records: Iterable[bytes]) -> int:
    """Writes records, reads them back, and then calls the file `path`; their number.

    Nothing is left of a shard that fails, and none is made of no records.

    Raises:
      DataError: the disk is full or not writable, or reads back other bytes.
    """
    temporary = path.with_suffix(".unfinished")
    checksums = []
    try:
        with writing(path):
            writer = ArrayRecordWriter(str(temporary), WRITER_OPTIONS)
            for record in records:
                writer.write(record)
                checksums.append(zlib.crc32(record))
            writer.close()
            _sync(temporary)
            if _read_checksums(temporary) != checksums:
                raise OSError("the disk reads back other bytes than were written")
            if checksums:
                temporary.replace(path)
            _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
    return len(checksums)


def map_ahead(
    pool: ThreadPoolExecutor, function: Callable[[In], Out], *, items: Iterable[In], ahead: int
) -> Iterator[Out]:
    """As `pool.map`, which would take all the items at once; this takes `ahead`."""
    items = iter(items)
    pending = collections.deque(pool.submit(function, x) for x in itertools.islice(items, ahead))
    while pending:
        yield pending.popleft().result()
        pending.extend(pool.submit(function, x) for x in itertools.islice(items, 1))


def _load(path: pathlib.Path) -> dict | None:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        manifest["plan"], manifest["shards"], manifest["skipped"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: not written by epsilon_vae.data.prepare ({error}); name another --output"
        ) from error
    return manifest


def _read_checksums(path: pathlib.Path) -> list[int]:
    reader = ArrayRecordReader(str(path))
    return [zlib.crc32(reader.read()) for _ in range(reader.num_records())]


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[None]:
    """Errors of disk and writer inside say what was written, and that all the rest stays.

    Raises:
      DataError: for an OSError or the C++ writer's RuntimeError.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error).split(";")[0]
        raise DataError(
            f"{path}: cannot be written ({reason}); see to the disk and run the same command "
            "again: what is finished stays"
        ) from error


def _sync(path: pathlib.Path) -> None:
    """Has the disk hold what was written to a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
