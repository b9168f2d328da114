"""Checksums of a checkpoint's files: written before it counts as saved, compared before it is read.

CRC-32, of which one core computes several GB/s: it finds what disks, networks and copies break, and
is no protection from somebody who means to.
"""

import concurrent.futures
import json
import zlib
from collections.abc import Iterator

from etils import epath

from epsilon_vae.errors import UserError

NAME = "checksums.json"
# Orbax writes these at the top of a step once all else is there.
_LATER = ("_CHECKPOINT_METADATA", "commit_success.txt", NAME)
_BLOCK = 2**22  # bytes read at a time
_THREADS = 8  # for the waiting times of a bucket; CRC-32 lets go of Python's lock


class DamagedError(UserError):
    """A checkpoint that cannot be read as it was written; the message says what differs."""


def write(folder: epath.Path) -> None:
    """Writes `checksums.json`, `{file: [bytes, CRC-32]}`, of all files in the folder."""
    names = [name for name in _names(folder) if name not in _LATER]
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        found = dict(zip(names, pool.map(lambda name: _measure(folder / name), names), strict=True))
    (folder / NAME).write_text(json.dumps(found, indent=0))


def check(folder: epath.Path, part: int = 0, parts: int = 1) -> None:
    """Compares the files with `checksums.json`; a checkpoint of a version that had none passes.

    Args:
      folder: of the checkpoint.
      part: of the files, which this process reads.
      parts: that processes share the files in.

    Raises:
      DamagedError: a file is missing or not as it was, or the checksums themselves are not.
    """
    if not (folder / NAME).exists():
        metadata = folder / _LATER[0]
        if metadata.exists() and NAME.encode() in metadata.read_bytes():
            raise DamagedError(f"{NAME} is missing")
        return
    expected = _read(folder / NAME)
    sizes = {name: _size(folder / name) for name in expected}
    for name, size in sizes.items():  # quick, and finds most of what happens
        if size != expected[name][0]:
            found = "missing" if size is None else f"of {size} bytes, not {expected[name][0]}"
            raise DamagedError(f"{name} is {found}")
    names = sorted(expected, key=lambda name: expected[name])[part::parts]
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        measured = pool.map(lambda name: _measure(folder / name), names)
        for name, found in zip(names, measured, strict=True):
            if found != expected[name]:
                raise DamagedError(f"{name} is not what was written: its checksum differs")


def _read(path: epath.Path) -> dict[str, tuple[int, int]]:
    try:
        return {str(name): (int(size), int(crc)) for name, (size, crc) in _items(path)}
    except (ValueError, TypeError, AttributeError) as error:
        raise DamagedError(f"{NAME} is not what was written: {error}") from error


def _items(path: epath.Path):
    return json.loads(path.read_text()).items()


def _names(folder: epath.Path, prefix: str = "") -> Iterator[str]:
    """Files in the folder and in those in it, relative to it."""
    for path in folder.iterdir():
        if path.is_dir():
            yield from _names(path, f"{prefix}{path.name}/")
        else:
            yield prefix + path.name


def _size(path: epath.Path) -> int | None:
    return path.stat().length if path.exists() and not path.is_dir() else None


def _measure(path: epath.Path) -> tuple[int, int]:
    """Bytes and CRC-32 of a file."""
    size = crc = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            size += len(block)
            crc = zlib.crc32(block, crc)
    return size, crc
