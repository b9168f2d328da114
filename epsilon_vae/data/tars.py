"""Images in tars, plain or .gz: of folders, tars in tars as ImageNet's, WebDataset's shards.

One pass over names and headers lists the images; their bytes are read later, by their place in the
list. Nothing but that list is held in memory.
"""

import gzip
import math
import os
import re
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple

import numpy as np

from epsilon_vae.data.decode import DataError, check_regular, check_size
from epsilon_vae.data.files import is_hidden
from epsilon_vae.data.images import Images, progress, reading, to_labels
from epsilon_vae.data.webdataset import Samples
from epsilon_vae.errors import reason

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")

_GZIP = b"\x1f\x8b"
# ImageNet's tars are one in another.
_MAX_NESTED_TARS = 3
# Of a member: its name, and what else an archiver notes of a file.
_MAX_HEADER_BYTES = 2**16
_BROKEN_TAR_ERRORS = (
    tarfile.TarError,
    OSError,
    EOFError,
    zlib.error,
    ValueError,
    OverflowError,  # a size beyond 64 bits
    RecursionError,  # headers that are each about the next
)


class Place(NamedTuple):
    """The place of an image: its path, first byte in the tar, and bytes."""

    name: str
    offset: int
    size: int


def tar_images(
    paths: Sequence[str], path: str, *, image_key: str = "", class_key: str = ""
) -> Images:
    """The images of tars, one after the other, in the order that they lie in.

    The class is in the .cls of WebDataset's samples, or under a key of their .json. Without them it
    is the first folder: an inner tar is a folder too, as is one of several tars unless it is a
    numbered shard, and a folder around all other folders is no class.

    Args:
      paths: of the tars.
      path: of the input.
      image_key: what follows the first dot of the images of samples, as 'jpg'; '' for any.
      class_key: key of the samples' .json that has the class; '' for .cls.

    Raises:
      DataError: one cannot be read, or is no tar.
    """
    samples = Samples(image_key, class_key)
    # What a tar holds twice counts as it is extracted: the last.
    places: dict[str, tuple[int, Place]] = {}
    prefixes = _prefixes(paths)
    for number, (one, prefix) in enumerate(zip(paths, prefixes, strict=True)):
        with reading(one), open_tar(one) as file:
            if not _begins_as_tar(file):
                raise DataError(
                    f"{one}: neither a folder nor a tar (plain or .gz), nor parquet; unpack it, or "
                    "download it again"
                )
            found = _tar_places(file, one, samples, prefix=prefix)
            places |= {place.name: (number, place) for place in progress(found)}
    names = list(places)
    samples.left_out.log(path)
    found = samples.classes_of(names, path)
    if found is None and not samples.are_of(names) and not _are_shards(paths):
        found = _folders(names)
    elif found is None:
        numbers = (number for number, _ in places.values())
        zipped = zip(names, numbers, strict=True)
        found = _folders([name.removeprefix(prefixes[number]) for name, number in zipped])
    classes, labels = to_labels(found, path)
    return Images(
        path=path,
        names=names,
        sizes=np.array([place.size for _, place in places.values()], np.int64),
        classes=classes,
        labels=labels,
        read=_Reader(paths, places),
    )


class _Reader:
    """Reads images of tars, of which one is open at a time.

    Reading on from an earlier place, a .gz is unpacked up to there.
    """

    def __init__(self, paths: Sequence[str], places: dict[str, tuple[int, Place]]):
        self._paths, self._names = paths, list(places)
        self._numbers = np.array([number for number, _ in places.values()], np.int32)
        self._offsets = np.array([place.offset for _, place in places.values()], np.int64)
        self._sizes = np.array([place.size for _, place in places.values()], np.int64)
        self._open: tuple[int, BinaryIO] | None = None

    def __call__(self, index: int) -> bytes:
        number = int(self._numbers[index])
        with reading(f"{self._paths[number]}: {self._names[index]}"):
            check_size(self._sizes[index])
            if self._open is None or self._open[0] != number:
                if self._open is not None:
                    self._open[1].close()
                self._open = number, open_tar(self._paths[number])
            file = self._open[1]
            file.seek(int(self._offsets[index]))
            return file.read(int(self._sizes[index]))


def open_tar(path: str) -> BinaryIO:
    """A tar, unpacked while it is read if it is a .gz."""
    check_regular(path)
    with open(path, "rb") as file:
        is_gzip = file.read(len(_GZIP)) == _GZIP
    return gzip.open(path) if is_gzip else open(path, "rb")


def members(file: BinaryIO) -> Iterator[tuple[tarfile.TarInfo, BinaryIO]]:
    """Files in a tar, with their content; it raises `_BROKEN_TAR_ERRORS`."""
    headers, before = _Headers(file), 0
    with tarfile.open(fileobj=headers, mode="r:") as archive:
        while (member := archive.next()) is not None:
            archive.members.clear()  # else tarfile keeps them all
            if member.size < 0 or archive.offset <= before:
                raise tarfile.ReadError("a member of negative size")
            if member.issparse():
                raise tarfile.ReadError(f"{member.name} is stored as a sparse file")
            if member.isreg():
                headers.left = math.inf
                yield member, archive.extractfile(member)
            headers.left, before = _MAX_HEADER_BYTES, archive.offset
        # tarfile takes any end for the end; a whole tar's is a block of zeros.
        file.seek(archive.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("unexpected end of data")


class _Headers:
    """A file from which tarfile reads no more than is left for a header, whatever that declares."""

    def __init__(self, file: BinaryIO):
        self._file, self.left = file, _MAX_HEADER_BYTES
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int) -> bytes:
        self.left -= size
        if size < 0 or self.left < 0:
            raise tarfile.ReadError(f"a header of more than {_MAX_HEADER_BYTES} bytes")
        return self._file.read(size)


def _begins_as_tar(file: BinaryIO) -> bool:
    try:
        tarfile.TarInfo.frombuf(file.read(tarfile.BLOCKSIZE), "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        return isinstance(error, tarfile.EOFHeaderError)  # of an empty one
    finally:
        file.seek(0)
    return True


def _tar_places(
    file: BinaryIO, path: str, samples: Samples, *, prefix: str = "", depth: int = 0
) -> Iterator[Place]:
    """Images of a tar and of the tars in it, in their order; their names begin with `prefix`."""
    if depth > _MAX_NESTED_TARS:
        raise DataError(f"{path}: a tar in {depth} others, {_MAX_NESTED_TARS} the most; unpack it")
    try:
        for member, content in members(file):
            name = prefix + member.name.removeprefix("./")
            if name.endswith(".tar") and not is_hidden(name):
                title = f"{path}: {name.removeprefix(prefix)}"
                inside = _tar_places(content, title, samples, prefix=f"{name}/", depth=depth + 1)
                for inner in inside:
                    yield inner._replace(offset=member.offset_data + inner.offset)
            elif samples.takes(name, content, path=path):
                yield Place(name, member.offset_data, member.size)
    except DataError:
        raise
    except _BROKEN_TAR_ERRORS as error:
        raise DataError(
            f"{path}: damaged or cut off ({reason(error)}); download it again"
        ) from error


def _prefixes(paths: Sequence[str]) -> list[str]:
    """What names in each of several tars begin with: its path below the folder of all, and `/`."""
    if len(paths) == 1:
        return [""]
    around = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    return [f"{os.path.relpath(path, around)}/" for path in paths]


def _are_shards(paths: Sequence[str]) -> bool:
    """Whether tars are numbered shards, and not one for each of ImageNet's classes, n01440764."""
    stems = [_without_suffix(os.path.basename(path)) for path in paths]
    return all(re.search(r"\d$", stem) and not re.fullmatch(r"n\d{8}", stem) for stem in stems)


def _without_suffix(name: str) -> str:
    return next((name.removesuffix(x) for x in TAR_SUFFIXES if name.endswith(x)), name)


def _folders(names: list[str]) -> list[str | None]:
    """The first folder of each name, but those around all; a tar is one too."""
    around = len(_folder_around(names))
    rests = [name[around:] for name in names]
    return [_without_suffix(rest.split("/")[0]) if "/" in rest else None for rest in rests]


def _folder_around(names: list[str]) -> str:
    """The longest 'a/b/' that all names begin with and that leaves each of them a folder."""
    around = ""
    while names:
        rests = (name[len(around) :] for name in names)
        heads = {rest.split("/")[0] if rest.count("/") > 1 else None for rest in rests}
        if len(heads) > 1 or None in heads:
            break
        around += f"{heads.pop()}/"
    return around
