"""Files and folders that runs and commands write: complete or not there, seen by all processes."""

import contextlib
import errno
import glob
import hashlib
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

# Network disks may show a new file to another host after some seconds only.
SEEN_TIMEOUT_SECONDS = 20
# Bytes: what file systems take, and what a temporary name has more than the file's own.
LONGEST_NAME = 255
ADDED_TO_NAMES = len("..1234567890.partial")

AnyPath = TypeVar("AnyPath", bound=pathlib.PurePath)  # pathlib's, or epath's


class OutputError(OSError):
    """A file or folder that cannot be written; the message says which and why."""


@contextlib.contextmanager
def replacing(path: AnyPath) -> Iterator[AnyPath]:
    """Gives a temporary path for a file or folder that becomes `path` once the disk holds it.

    Readers see what was there before, or all of the new. The temporary path is hidden, beside
    `path`, and belongs to this process: several of a host may write the same. It is removed if the
    block raises, or, if the process is killed, by the next one that writes `path`. In a bucket
    (`gs://`), which is for small files, all processes have one temporary path.

    Args:
      path: what to write; a folder must not exist yet. Folders above it are made.

    Raises:
      OutputError: the block or the renaming failed with an OSError, as on a full disk.
    """
    is_local = not is_in_bucket(path)
    process = f".{os.getpid()}" if is_local else ""
    partial = path.with_name(f".{_stem(path.name)}{process}.partial")
    try:
        if is_local:
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(pathlib.Path(path))
        yield partial
        if is_local:
            for written in (*pathlib.Path(partial).rglob("*"), partial):
                _sync(written)
        partial.replace(path)
        if is_local:
            _sync(path.parent)
    except BaseException as error:
        with contextlib.suppress(Exception):  # the first error counts
            _remove(partial)
        if not isinstance(error, OSError) or isinstance(error, OutputError):
            raise
        reason = error.strerror or str(error)
        failure = OutputError(
            f"{path}: cannot be written ({reason}); see to the disk and run the same again: what "
            "is finished stays"
        )
        failure.strerror = reason
        raise failure from error


def is_in_bucket(path: pathlib.PurePath) -> bool:
    """Whether the path is of a bucket, whose files cannot grow."""
    return "://" in str(path)


def write_whole(path: pathlib.PurePath, content: bytes) -> None:
    """Writes a file by `replacing`."""
    with replacing(path) as partial:
        partial.write_bytes(content)


def is_seen(is_there: Callable[[], bool]) -> bool:
    """Whether what another process has written is there, if need be after a while."""
    deadline = time.monotonic() + SEEN_TIMEOUT_SECONDS
    while not is_there():
        if time.monotonic() > deadline:
            return False
        time.sleep(1)
    return True


def _stem(name: str) -> str:
    """A name to which the temporary one can add what it adds: file systems take 255 bytes."""
    encoded = os.fsencode(name)
    if len(encoded) <= LONGEST_NAME - ADDED_TO_NAMES:
        return name
    digest = hashlib.sha256(encoded).hexdigest()[:32]
    return f"{name[:32]}{digest}"


def _remove_abandoned(path: pathlib.Path) -> None:
    """Removes what processes that are gone left of `path`.

    Of one that had this process's number, a folder alone is removed: a file is overwritten.
    """
    prefix = f".{_stem(path.name)}."
    for partial in path.parent.glob(f"{glob.escape(prefix)}*.partial"):
        process = partial.name.removeprefix(prefix).removesuffix(".partial")
        if not process.isdecimal():
            continue  # of another file, whose name begins like this one's
        is_own = int(process) == os.getpid()
        if partial.is_dir() if is_own else not _is_running(int(process)):
            _remove(partial)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError as error:
        return error.errno == errno.EPERM  # another user's
    return True


def _remove(path: AnyPath) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync(path: pathlib.PurePath) -> None:
    """Has the disk hold what was written to a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            raise  # else a file system that has no such call, as for folders some have not
    finally:
        os.close(descriptor)
