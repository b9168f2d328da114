"""Images as they are downloaded: a folder, a tar, or ImageNet's tars; for `prepare`.

One pass over names and headers lists the images; their bytes are read later, by their place in the
list. Nothing but that list is held in memory.
"""

import contextlib
import dataclasses
import gzip
import io
import math
import os
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

import numpy as np
from tqdm import tqdm

from epsilon_vae.data.decode import DataError, check_regular, check_size, read_file
from epsilon_vae.data.files import LeftOut, filesystem, find_image_files, is_hidden
from epsilon_vae.data.formats import SUFFIXES
from epsilon_vae.errors import reason

# Of ImageNet's devkit: what each validation image is, by ILSVRC2012_ID, and what the IDs stand for.
GROUND_TRUTH = "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"
SYNSETS = "ILSVRC2012_devkit_t12/data/meta.mat"

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
    """The place of an image: its path in the folder or tar, first byte in the tar, and bytes."""

    name: str
    offset: int
    size: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Images:
    """Images in an order that depends on the input alone: a folder's sorted, a tar's as it is.

    Attributes:
      path: the folder or tar.
      names: paths in it.
      sizes: bytes of each.
      classes: names of the classes, sorted.
      labels: index into the classes, or None, of each.
      read: bytes of the image at an index; cheap in the order of the list.
    """

    path: str
    names: list[str]
    sizes: np.ndarray
    classes: tuple[str, ...]
    labels: list[int | None]
    read: Callable[[int], bytes]

    def __len__(self) -> int:
        return len(self.names)


def find_images(path: str) -> Images:
    """The images of a folder or a tar, plain or .gz, whose members may be tars in turn.

    Left out are names that do not end as images do, and those with a part that begins with a dot;
    a line is logged of them.
    The class is the first folder. In a tar, an inner tar is a folder too, and a folder around all
    other folders is no class.

    Raises:
      DataError: there is no such input, it is neither, cannot be read, or holds no image.
    """
    with _reading(path):
        images = _folder_images(path) if os.path.isdir(path) else _tar_images(path)
    if not images.names:
        raise DataError(f"{path}: no image in it; looked for {', '.join(SUFFIXES)}")
    return images


class Devkit(NamedTuple):
    """The classes of ImageNet's validation images.

    Attributes:
      path: of the file.
      classes: WNIDs, sorted, as the inner tars of the train tar are.
      labels: index into the classes of each image, in the order of the file names.
    """

    path: str
    classes: tuple[str, ...]
    labels: list[int]


def read_devkit(path: str) -> Devkit:
    """Reads them from ILSVRC2012_devkit_t12.tar.gz.

    Raises:
      DataError: another file, or a damaged one.
    """
    from scipy.io import loadmat  # which only the devkit's users should wait for

    try:
        found = {}
        with _open_tar(path) as file:
            for member, content in _members(file):
                if member.name in (SYNSETS, GROUND_TRUTH):
                    check_size(member.size)
                    found[member.name] = content.read()
        synsets = loadmat(io.BytesIO(found[SYNSETS]), squeeze_me=True)
        truth = [int(line) for line in found[GROUND_TRUTH].split()]
        wnids = {
            int(synset["ILSVRC2012_ID"]): str(synset["WNID"])
            for synset in synsets["synsets"]
            if synset["num_children"] == 0  # the others are groups of classes
        }
        classes = tuple(sorted(wnids.values()))
        return Devkit(path, classes, [classes.index(wnids[image_id]) for image_id in truth])
    except Exception as error:  # scipy's, of many kinds
        raise DataError(
            f"{path}: not ILSVRC2012_devkit_t12.tar.gz ({reason(error)}); download it again"
        ) from error


def label(images: Images, devkit: Devkit) -> Images:
    """ImageNet's validation images, labelled.

    Raises:
      DataError: the devkit is for another number of images, or they have classes.
    """
    if images.classes:
        raise DataError(
            f"{devkit.path}: the images of {images.path} have classes, their folders; leave the "
            "devkit out"
        )
    if len(devkit.labels) != len(images):
        raise DataError(
            f"{devkit.path}: labels {len(devkit.labels)} images, but {images.path} has "
            f"{len(images)}; use both as they are downloaded"
        )
    labels: list[int | None] = [None] * len(images)
    # A tar's order need not be that of the names.
    in_order = sorted(range(len(images)), key=images.names.__getitem__)
    for place, devkit_label in zip(in_order, devkit.labels, strict=True):
        labels[place] = devkit_label
    return dataclasses.replace(images, classes=devkit.classes, labels=labels)


def _folder_images(path: str) -> Images:
    """Classes and labels of folders, as `sources.Folder` has them."""
    files, root = filesystem(path)
    entries = find_image_files(files, root, path)
    names = list(entries)
    sizes = np.array([entries[name]["size"] for name in names], np.int64)

    def read(index: int) -> bytes:
        with _reading(f"{path}/{names[index]}"):
            return read_file(f"{root}/{names[index]}")

    folders = [name.split("/")[0] if "/" in name else None for name in names]
    classes, labels = _to_labels(folders)
    return Images(path=path, names=names, sizes=sizes, classes=classes, labels=labels, read=read)


def _tar_images(path: str) -> Images:
    # Left open for `read`. Reading on from an earlier place, a .gz is unpacked up to there.
    file = _open_tar(path)
    if not _begins_as_tar(file):
        raise DataError(
            f"{path}: neither a folder nor a tar (plain or .gz); unpack it, or download it again"
        )
    # What a tar holds twice counts as it is extracted: the last.
    left_out = LeftOut()
    places = {place.name: place for place in _progress(_tar_places(file, path, left_out))}
    left_out.log(path)
    names = list(places)
    offsets = np.array([place.offset for place in places.values()], np.int64)
    sizes = np.array([place.size for place in places.values()], np.int64)

    def read(index: int) -> bytes:
        with _reading(f"{path}: {names[index]}"):
            check_size(sizes[index])
            file.seek(int(offsets[index]))
            return file.read(int(sizes[index]))

    around = len(_folder_around(names))
    folders = [
        name[around:].split("/")[0].removesuffix(".tar") if "/" in name[around:] else None
        for name in names
    ]
    classes, labels = _to_labels(folders)
    return Images(path=path, names=names, sizes=sizes, classes=classes, labels=labels, read=read)


def _open_tar(path: str) -> BinaryIO:
    """A tar, unpacked while it is read if it is a .gz."""
    check_regular(path)
    with open(path, "rb") as file:
        is_gzip = file.read(len(_GZIP)) == _GZIP
    return gzip.open(path) if is_gzip else open(path, "rb")


def _tar_places(file: BinaryIO, path: str, left_out: LeftOut, *, depth: int = 0) -> Iterator[Place]:
    """Images of a tar and of the tars in it, in their order."""
    if depth > _MAX_NESTED_TARS:
        raise DataError(f"{path}: a tar in {depth} others, {_MAX_NESTED_TARS} the most; unpack it")
    try:
        for member, content in _members(file):
            name = member.name.removeprefix("./")
            if name.endswith(".tar") and not is_hidden(name):
                title = f"{path}: {name}"
                for inner in _tar_places(content, title, left_out, depth=depth + 1):
                    offset = member.offset_data + inner.offset
                    yield Place(f"{name}/{inner.name}", offset, inner.size)
            elif left_out.is_image(name):
                yield Place(name, member.offset_data, member.size)
    except _BROKEN_TAR_ERRORS as error:
        raise DataError(
            f"{path}: damaged or cut off ({reason(error)}); download it again"
        ) from error


def _members(file: BinaryIO) -> Iterator[tuple[tarfile.TarInfo, BinaryIO]]:
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


def _to_labels(folders: list[str | None]) -> tuple[tuple[str, ...], list[int | None]]:
    """Sorted classes, and each image's index among them."""
    classes = tuple(sorted({folder for folder in folders if folder is not None}))
    index = {folder: label for label, folder in enumerate(classes)}
    return classes, [index.get(folder) for folder in folders]


def _progress(found: Iterator) -> Iterator:
    hidden = not sys.stderr.isatty()
    return tqdm(found, desc="Looking for images", unit=" files", disable=hidden, leave=False)


@contextlib.contextmanager
def _reading(path: str) -> Iterator[None]:
    """Errors of the system inside say what was read."""
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        where = getattr(error, "filename", None) or path
        if isinstance(error, FileNotFoundError):
            raise DataError(f"{where}: no such file or folder") from error
        raise DataError(f"{where}: cannot be read ({reason(error)})") from error
