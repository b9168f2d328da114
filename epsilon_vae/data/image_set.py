"""Sets of images as ADM's suite has them: folders, or arrays, also with `mu` and `sigma`."""

import contextlib
import io
import math
import pathlib
import zipfile
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from epsilon_vae.data.decode import (
    DEFAULT,
    MAX_PIXELS,
    DataError,
    ImageDecoding,
    check_regular,
    read_image,
)
from epsilon_vae.data.files import list_images
from epsilon_vae.errors import reason

MOMENTS = ("mu", "sigma")
ADM_IMAGES = "arr_0"
_MAX_NAMED = 8  # of the arrays of a file, in a message


class ImageSet:
    """uint8 images of one size, in a folder and those in it, or an array of an `.npz` or `.npy`.

    Of an `.npz` the array is `arr_0`, or the only one that is of uint8 and `[N, H, W, 3]`.

    Args:
      path: of it, or of a folder that `epsilon_vae.generate` wrote, of which its images are taken
        and its grid is not.
      decoding: of files.

    Attributes:
      path: of what is taken.

    Raises:
      DataError: there are neither images nor moments, or they cannot be read, as far as their
        headers tell.
    """

    def __init__(self, path: str, decoding: ImageDecoding = DEFAULT):
        self.path = _generated_images(pathlib.Path(path))
        self._decoding = decoding
        self._files: list[pathlib.Path] = []
        self._arrays: set[str] = set()
        self._shape: tuple[int, ...] = (0,)
        self._key: str | None = None
        if is_array(self.path):
            with _told(self.path):
                check_regular(self.path)
                headers = _read_headers(self.path)
            self._arrays = set(headers)
            self._key = _find_images(headers, self.path)
            if self._key is not None:
                self._shape = headers[self._key].shape
        else:
            self._files = list_images(self.path)
        if not len(self) and not self._arrays & {*MOMENTS}:
            raise DataError(f"{path}: no images in it; name a folder of them, an .npz or .npy file")

    def __len__(self) -> int:
        return len(self._files) or self._shape[0]

    def size(self) -> tuple[int, int]:
        """Height and width of the images, by the first.

        Raises:
          DataError: it cannot be read.
        """
        return self._read(self._files[0]).shape[:2] if self._files else self._shape[1:3]

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """All of them, uint8 `[B, H, W, 3]`, `size` at a time and the rest, never all in memory.

        Raises:
          DataError: one cannot be read, or has another size.
        """
        if self._files:
            yield from self._batches_of_files(size)
        elif len(self):
            yield from self._stored_batches(size)

    def moments(self, dim: int) -> tuple[np.ndarray, np.ndarray] | None:
        """`mu` `[dim]` and `sigma` `[dim, dim]` of `dim` features, if it has them.

        Raises:
          DataError: one without the other, of another shape, broken or not finite.
        """
        missing = [name for name in MOMENTS if name not in self._arrays]
        if len(missing) == 2:
            return None
        if missing:
            raise DataError(f"{self.path}: {missing[0]} is missing, of {' and '.join(MOMENTS)}")
        with _told(self.path):
            headers = _read_headers(self.path)
        for name in MOMENTS:
            if headers[name].dtype.kind != "f":
                raise DataError(f"{self.path}: {name} is {headers[name].dtype}, not float")
        shapes = [headers[name].shape for name in MOMENTS]
        if shapes != [(dim,), (dim, dim)]:
            raise DataError(
                f"{self.path}: mu is {shapes[0]} and sigma {shapes[1]}, not ({dim},) and "
                f"({dim}, {dim})"
            )
        with _told(self.path), np.load(self.path, allow_pickle=False) as arrays:
            mean, covariance = (arrays[name].astype(np.float64) for name in MOMENTS)
        if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
            raise DataError(f"{self.path}: mu or sigma is not finite")
        return mean, covariance

    def _batches_of_files(self, size: int) -> Iterator[np.ndarray]:
        shape = self._read(self._files[0]).shape
        for start in range(0, len(self), size):
            files = self._files[start : start + size]
            images = [self._read(file) for file in files]
            for file, image in zip(files, images, strict=True):
                if image.shape != shape:
                    found, first = ("x".join(map(str, s[1::-1])) for s in (image.shape, shape))
                    raise DataError(f"{file}: {found} pixels, {self._files[0]} has {first}")
            yield np.stack(images)

    def _read(self, file: pathlib.Path) -> np.ndarray:
        return read_image(file, self._decoding)

    def _stored_batches(self, size: int) -> Iterator[np.ndarray]:
        shape = self._shape[1:]
        with _open_array(self.path, self._key) as file:
            _read_header(file)
            for start in range(0, len(self), size):
                count = min(size, len(self) - start)
                with _told(self.path):  # not of what the caller does with the images
                    data = file.read(count * math.prod(shape))
                    images = np.frombuffer(data, np.uint8).reshape(count, *shape)
                yield images


def is_array(path: str | pathlib.Path) -> bool:
    """Whether a path is of an `.npz` or `.npy` file; a folder may be called so too."""
    path = pathlib.Path(path)
    return path.suffix in (".npz", ".npy") and not path.is_dir()


def _generated_images(path: pathlib.Path) -> pathlib.Path:
    """The images in a folder of `epsilon_vae.generate`, or in another the folder itself."""
    if (path / "grid.png").is_file():
        for name in ("images.npz", "images"):
            if (path / name).exists():
                return path / name
    return path


class _Header(NamedTuple):
    """What an array's header says of it, and whether as many bytes follow."""

    shape: tuple[int, ...]
    is_fortran: bool
    dtype: np.dtype
    is_whole: bool

    def __str__(self) -> str:
        whole = "" if self.is_whole else ", with more or fewer bytes"
        return f"{self.shape} {self.dtype}{whole}"

    def is_of_images(self) -> bool:
        """Whether it is uint8 `[N, H, W, 3]`, in C's order."""
        is_usable = self.is_whole and not self.is_fortran and self.dtype == np.uint8
        shape = self.shape
        return is_usable and _has_channels_last(shape) and 0 < shape[1] * shape[2] <= MAX_PIXELS


def _has_channels_last(shape: tuple[int, ...]) -> bool:
    return len(shape) == 4 and shape[-1] == 3


def _find_images(headers: dict[str, _Header], path: pathlib.Path) -> str | None:
    """The name of the array of images; None where there are moments instead.

    Raises:
      DataError: no array is of images, or several could be; it says which there are.
    """
    likely = [name for name, header in headers.items() if header.is_of_images()]
    if ADM_IMAGES in likely:
        return ADM_IMAGES
    if len(likely) == 1:
        return likely[0]
    if not likely and set(MOMENTS) & set(headers):
        return None
    there = ", ".join(f"{name or 'an array'} {headers[name]}" for name in [*headers][:_MAX_NAMED])
    there += ", …" * (len(headers) > _MAX_NAMED)
    if likely:
        raise DataError(
            f"{path}: has {there}; {' and '.join(likely)} could be the images: save them alone, or "
            f"as {ADM_IMAGES}"
        )
    shapes = [header.shape for header in headers.values() if len(header.shape) == 4]
    are_last = any(map(_has_channels_last, shapes)) or not any(x[1] == 3 for x in shapes)
    order = "" if are_last else "; of [N, 3, H, W], np.transpose(x, (0, 2, 3, 1)) makes that"
    raise DataError(
        f"{path}: has {there or 'no array'}; expected images in uint8, 0 to 255, of "
        f"[N, H, W, 3]{order}"
    )


def _read_headers(path: pathlib.Path) -> dict[str, _Header]:
    """Headers of arrays by name; that of an `.npy` is ''."""
    if path.suffix == ".npy":
        names = {"": path.stat().st_size}
    else:
        with zipfile.ZipFile(path) as archive:
            names = {
                info.filename.removesuffix(".npy"): info.file_size
                for info in archive.infolist()
                if info.filename.endswith(".npy")
            }
    headers = {}
    for name, size in names.items():
        with _open_array(path, name) as file:
            shape, is_fortran, dtype = _read_header(file)
            stored = size - file.tell()
        is_whole = min(shape, default=0) >= 0 and stored == math.prod(shape) * dtype.itemsize
        headers[name] = _Header(shape, is_fortran, dtype, is_whole)
    return headers


@contextlib.contextmanager
def _open_array(path: pathlib.Path, name: str) -> Iterator[io.BufferedIOBase]:
    if path.suffix == ".npy":
        with path.open("rb") as file:
            yield file
    else:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
            yield file


def _read_header(file: io.BufferedIOBase) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether it is in Fortran's order, and type; the file is then at the first element."""
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("an array of a format that np.save does not write")
    return np.lib.format.read_array_header_1_0(file)


@contextlib.contextmanager
def _told(path: pathlib.Path) -> Iterator[None]:
    """Raises a `DataError` for whatever is raised for a broken file, which are many kinds."""
    try:
        yield
    except Exception as error:
        raise DataError(f"{path}: cannot be read ({reason(error)})") from error
