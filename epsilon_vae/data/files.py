"""Files on disk or in a bucket, by paths that may be URLs, as gs://BUCKET/FOLDER."""

import collections
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import fsspec
from absl import logging

from epsilon_vae.data.decode import DataError, read_file
from epsilon_vae.data.formats import SUFFIXES
from epsilon_vae.errors import reason
from epsilon_vae.names import printable

# What tells that a file has changed, of local ones and those of buckets.
_FILE_METADATA = ("size", "mtime", "updated", "LastModified")


def filesystem(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of a path or URL, and the path in it.

    Raises:
      DataError: what reads such URLs is not installed, or knows none of this kind.
    """
    try:
        return fsspec.core.url_to_fs(path)
    except (ImportError, ValueError) as error:
        raise DataError(f"{path}: {error}") from error


def hash_files(entries: Mapping[str, Mapping[str, Any]]) -> str:
    """Another one when files come, go or change, as far as is seen without reading them.

    Args:
      entries: of files by path, as their file system lists them.
    """
    metadata = {
        path: [str(entry.get(key)) for key in _FILE_METADATA] for path, entry in entries.items()
    }
    return hashlib.sha256(json.dumps(metadata, sort_keys=True).encode()).hexdigest()[:12]


class LeftOut:
    """Counts the files of an input that are not taken for images, and says so in one line."""

    def __init__(self):
        self._counts = collections.Counter()

    def is_image(self, name: str, *, wanted: bool = True) -> bool:
        """Whether a path is of an image, by its suffix, and not hidden; counts it if it is not.

        Args:
          name: the path.
          wanted: whether images of this kind are taken.
        """
        if is_hidden(name):
            self._counts["hidden"] += 1
            return False
        if not (wanted and name.lower().endswith(SUFFIXES)):
            self._counts[pathlib.PurePosixPath(name).suffix.lower() or "without a suffix"] += 1
            return False
        return True

    def images_of(self, entries: dict[str, dict]) -> dict[str, dict]:
        """The entries whose names are of images, sorted by name; counts the others."""
        return {name: entries[name] for name in sorted(entries) if self.is_image(name)}

    def log(self, path: str) -> None:
        """Logs a line about the input `path`, if there is anything to say."""
        by_number = sorted(self._counts.items(), key=lambda item: (-item[1], item[0]))
        kinds = ", ".join(f"{count} {kind}" for kind, count in by_number)
        if kinds:
            total = self._counts.total()
            _warn_once(printable(f"{path}: {total} left out ({kinds})"))


@functools.cache
def _warn_once(line: str) -> None:
    """Warns, also of an input that is opened twice."""
    logging.warning("%s", line)


def is_hidden(name: str) -> bool:
    """Whether a part of a path begins with a dot, as `._0.jpg` and `.ipynb_checkpoints` do."""
    return any(part.startswith(".") for part in name.split("/"))


def find_image_files(files: fsspec.AbstractFileSystem, root: str, path: str) -> dict[str, dict]:
    """The image files below `root` as `list_files` has them, sorted; a line says what is left out.

    Raises:
      DataError: as `list_files`.
    """
    left_out = LeftOut()
    found = left_out.images_of(list_files(files, root, path, left_out=left_out))
    left_out.log(path)
    return found


def list_images(folder: pathlib.Path) -> list[pathlib.Path]:
    """The paths of `find_image_files` of a folder of this machine; none where there is none.

    Raises:
      DataError: it may not be read.
    """
    if not folder.is_dir():
        return []
    return [folder / name for name in find_image_files(*filesystem(str(folder)), str(folder))]


def list_files(
    files: fsspec.AbstractFileSystem, root: str, path: str, *, left_out: LeftOut | None = None
) -> dict[str, dict]:
    """Lists the files below `root` that are not hidden, with what the file system says of them.

    By their paths relative to `root`; links are followed, but those to a folder they are in.

    Args:
      files: file system.
      root: in it.
      path: how the user names it.
      left_out: takes note of what is hidden.

    Raises:
      DataError: no such folder, or one that may not be read.
    """
    # Not files.walk: that keeps silent about subfolders that may not be read.
    root = root.rstrip("/")
    found = {}
    # With the real paths of the folders around: links may lead back to one.
    folders = [(root, frozenset([os.path.realpath(root)]))]
    try:
        if files.info(root)["type"] != "directory":
            raise FileNotFoundError(root)
        while folders:
            folder, around = folders.pop()
            for entry in files.ls(folder, detail=True):
                name = entry["name"].rstrip("/")
                if name == folder:
                    continue
                if name.rsplit("/", 1)[-1].startswith("."):
                    if left_out:
                        left_out.is_image(name.rsplit("/", 1)[-1])
                    continue
                is_link = entry.get("islink", False)
                if entry["type"] != "directory" and not (is_link and files.isdir(name)):
                    found[name[len(root) + 1 :]] = entry
                    continue
                real = os.path.realpath(name)
                if real not in around:
                    folders.append((name, around | {real}))
    except FileNotFoundError:
        raise DataError(
            f"{path}: no such folder; config.data.path needs the splits, train and val, as "
            "subfolders, and config.data.val_split or train_split says if one has another name"
        ) from None
    except Exception as error:  # a cloud's client raises its own kinds
        raise DataError(f"{path}: cannot be read ({reason(error)}); check its rights") from error
    return found


def read_json(files: fsspec.AbstractFileSystem, path: str) -> Any:
    """The content of a JSON file.

    Raises:
      OSError, ValueError, RecursionError: it cannot be read; or what a cloud's client raises.
    """
    return json.loads(read_file(path) if "file" in files.protocol else files.cat_file(path))


def url(files: fsspec.AbstractFileSystem, path: str) -> str:
    """The address of a path, as other libraries are told it."""
    return path if "file" in files.protocol else files.unstrip_protocol(path)
