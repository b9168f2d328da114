"""Shards of ArrayRecord, of images or of whatever else a folder's list says."""

import fnmatch
import os
import resource
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fsspec
import grain
from array_record.python.array_record_module import ArrayRecordReader

from epsilon_vae.data.decode import DataError
from epsilon_vae.data.files import filesystem, hash_files, list_files, read_json, url
from epsilon_vae.data.records import Record, check_label, unpack
from epsilon_vae.errors import reason

# Shards that are opened at the same time, since those of a bucket answer slowly.
_OPENING_THREADS = 64
# Files that a process has open besides its shards, and some more.
_OTHER_OPEN_FILES = 512


class ArrayRecords(Sequence[Record]):
    """Shards of `epsilon_vae.data.prepare`, or of bare encoded images.

    Args:
      path: folder of `SPLIT-00000.array_record`… and `SPLIT.json`, which lists them; without that
        list, of all `*SPLIT*array_record*`.
      split: name of the split.

    Attributes:
      classes: names of the classes, if the list has them.

    Raises:
      DataError: no shards, or one that is missing, unreadable or of another length than listed.
    """

    def __init__(self, path: str, split: str):
        self.path, self.split = path.rstrip("/"), split
        counts, self.classes = _find_shards(*filesystem(path), path, split)
        self._shards = tuple(counts)
        self._title = f"{self.path}/{split}"
        self._records = ShardRecords(
            path, counts, title=self._title, writer="epsilon_vae.data.prepare"
        )

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        name = f"{self._title}[{index}]"
        record = unpack(self._records[index], name)
        check_label(record.label, self.classes, f"{name}, {record.name}")
        return record

    def files_hash(self) -> str:
        """`hash_files` of the shards as they are now."""
        entries = list_files(*filesystem(self.path), self.path)
        return hash_files({name: entries[name] for name in self._shards if name in entries})


class ShardRecords(Sequence[bytes]):
    """Records of a folder's ArrayRecord shards, as they are stored.

    Args:
      path: of the folder.
      counts: shards by name, with their numbers of records where these are known.
      title: of the whole, for messages.
      writer: the module that writes such shards, for messages.

    Raises:
      DataError: a shard that is missing, unreadable or of another length.
    """

    def __init__(self, path: str, counts: Mapping[str, int | None], *, title: str, writer: str):
        check_path(path)
        files, root = filesystem(path.rstrip("/"))
        urls = [url(files, f"{root}/{name}") for name in counts]
        _check_shards(urls, list(counts.values()), writer)
        self._title = title
        self._records = grain.sources.ArrayRecordDataSource(urls)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> bytes:
        name = f"{self._title}[{index}]"
        if index >= len(self):
            raise IndexError(name)  # iteration ends here
        try:
            return self._records[index]
        except Exception as error:  # the C++ reader's, of many kinds
            raise DataError(f"{name}: cannot be read ({reason(error)})") from error


def _find_shards(
    files: fsspec.AbstractFileSystem, root: str, path: str, split: str
) -> tuple[dict[str, int | None], tuple[str, ...]]:
    """Shards by name, with their numbers of records where a list has them; and the classes."""
    try:
        names = [name.rsplit("/", 1)[-1] for name in files.ls(root, detail=False)]
        if f"{split}.json" in names:
            listed = read_json(files, f"{root}/{split}.json")
            check_list(listed)
            if not listed["shards"]:
                raise ValueError("it names no shard")
            return listed["shards"], tuple(listed["classes"])
    except FileNotFoundError:
        raise DataError(f"{path}: no such folder; epsilon_vae.data.prepare makes one") from None
    except Exception as error:  # not JSON, or what a cloud's client raises
        raise DataError(
            f"{path}: {split}.json and its shards cannot be read ({reason(error)})"
        ) from error
    if f"{split}.unfinished.json" in names:
        raise DataError(
            f"{path}: split {split!r} is unfinished; run epsilon_vae.data.prepare again"
        )
    shards = sorted(fnmatch.filter(names, f"*{split}*array_record*"))
    if not shards:
        raise DataError(
            f"{path}: no *{split}*array_record*; epsilon_vae.data.prepare makes them, and "
            "config.data.val_split or train_split says if one has another name"
        )
    return dict.fromkeys(shards), ()


def check_path(path: str) -> None:
    """Raises `DataError` for a folder whose name ArrayRecord cannot take: one that is no UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{path}: ArrayRecord takes names in UTF-8 alone; rename it") from error


def check_list(listed: Any) -> None:
    """Raises `ValueError` for what is no list of a folder's shards, `shards` and `classes`."""
    if not isinstance(listed, dict):
        raise ValueError(f"a {type(listed).__name__}, not shards and classes")
    shards, classes = listed.get("shards"), listed.get("classes")
    if not isinstance(shards, dict) or not all(
        type(count) is int and 0 < count < 2**31 and name and "/" not in name
        for name, count in shards.items()
    ):
        raise ValueError("shards must be names of files and their numbers of records")
    check_names("classes", classes)


def check_names(what: str, names: Any) -> None:
    """Raises `ValueError` for `names` that are no list of different texts."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{what} must be a list of names")
    if len(set(names)) < len(names):
        raise ValueError(f"{what} has a name twice")


def _check_shards(urls: list[str], counts: list[int | None], writer: str) -> None:
    """Raises `DataError` for a shard that cannot be read, or holds another number of records."""
    allow_open_files(len(urls))
    with ThreadPoolExecutor(_OPENING_THREADS) as pool:
        for url, listed, found in zip(urls, counts, pool.map(count_records, urls), strict=True):
            if found == 0 or listed not in (None, found):
                raise DataError(
                    f"{url}: {found or 'no'} records can be read"
                    + (f", {listed} are listed" if listed else "")
                    + f"; check its rights, copy it again, or run {writer} again"
                )


def count_records(path: str) -> int:
    """Counts the records of a shard; 0 for one that is missing, damaged or not readable."""
    if "://" not in path and not os.path.isfile(path):
        return 0  # or a FIFO would be waited for
    reader = ArrayRecordReader(path)
    return reader.num_records() if reader.ok() else 0


def allow_open_files(num_shards: int) -> None:
    """ArrayRecord keeps each shard open; many systems allow 1024 files until asked for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = num_shards + _OTHER_OPEN_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        if hard != resource.RLIM_INFINITY and hard < wanted:
            raise DataError(
                f"{num_shards} shards need {wanted} open files, the system allows {hard}: raise it "
                "(ulimit -Hn), or prepare with more records a shard"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
