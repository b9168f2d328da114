"""Sets of images as ADM's suite has them: folders, or `.npz` files with `arr_0`, `mu`, `sigma`."""

import contextlib
import math
import pathlib
import zipfile
from collections.abc import Iterator

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
IMAGES = "arr_0.npy"


class ImageSet:
    """uint8 images of one size, in a folder and those in it, or in the `arr_0` of an `.npz` file.

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
        if self.path.suffix == ".npz" and not self.path.is_dir():
            with _told(self.path):
                check_regular(self.path)
                with zipfile.ZipFile(self.path) as archive:
                    self._arrays = {name.removesuffix(".npy") for name in archive.namelist()}
                    if IMAGES in archive.namelist():
                        self._shape = _images_shape(archive)
        else:
            self._files = list_images(self.path)
        if not len(self) and not self._arrays & {*MOMENTS}:
            raise DataError(f"{path}: no images in it; name a folder of them, or an .npz file")

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
        with _told(self.path), zipfile.ZipFile(self.path) as archive:
            shapes = [_read_header(archive, f"{name}.npy", "f")[0] for name in MOMENTS]
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
        with zipfile.ZipFile(self.path) as archive, archive.open(IMAGES) as file:
            np.lib.format.read_magic(file)
            np.lib.format.read_array_header_1_0(file)
            for start in range(0, len(self), size):
                count = min(size, len(self) - start)
                with _told(self.path):  # not of what the caller does with the images
                    data = file.read(count * math.prod(shape))
                    images = np.frombuffer(data, np.uint8).reshape(count, *shape)
                yield images


def _generated_images(path: pathlib.Path) -> pathlib.Path:
    """The images in a folder of `epsilon_vae.generate`, or in another the folder itself."""
    if (path / "grid.png").is_file():
        for name in ("images.npz", "images"):
            if (path / name).exists():
                return path / name
    return path


def _images_shape(archive: zipfile.ZipFile) -> tuple[int, ...]:
    """Shape of the images `[N, H, W, 3]`; raises `ValueError` for other arrays."""
    shape, is_fortran = _read_header(archive, IMAGES, "u")
    if is_fortran:
        raise ValueError("arr_0 is in Fortran's order")
    if len(shape) != 4 or shape[-1] != 3 or not 0 < shape[1] * shape[2] <= MAX_PIXELS:
        raise ValueError(f"arr_0 is {shape}, not [N, H, W, 3]")
    return shape


def _read_header(archive: zipfile.ZipFile, name: str, kind: str) -> tuple[tuple[int, ...], bool]:
    """Shape of an array of unsigned bytes ('u') or floats ('f'), and if it is in Fortran's order.

    Raises `ValueError` for one of another kind, or of more or fewer bytes than it declares.
    """
    with archive.open(name) as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError(f"{name} is of a format that np.savez does not write")
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
        stored = archive.getinfo(name).file_size - file.tell()
    if dtype.kind != kind or (kind == "u" and dtype != np.uint8):
        raise ValueError(f"{name} is {dtype}, not {'uint8' if kind == 'u' else 'float'}")
    if min(shape, default=0) < 0 or stored != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{name} has {stored} bytes, which are not those of {dtype} {shape}")
    return shape, is_fortran


@contextlib.contextmanager
def _told(path: pathlib.Path) -> Iterator[None]:
    """Raises a `DataError` for whatever is raised for a broken file, which are many kinds."""
    try:
        yield
    except Exception as error:
        raise DataError(f"{path}: cannot be read ({reason(error)})") from error
