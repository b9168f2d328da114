"""Where images come from: random access to decoded photos.

`photos` are the real ones that scikit-image and scikit-learn carry in their wheels: they need no
network and no licence question. `folder` reads a user's own.
"""

import functools
import importlib.metadata
import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

PHOTOS = {
    "train": (
        ("scikit-learn", "sklearn/datasets/images/china.jpg"),
        ("scikit-learn", "sklearn/datasets/images/flower.jpg"),
        ("scikit-image", "skimage/data/motorcycle_left.png"),
        ("scikit-image", "skimage/data/motorcycle_right.png"),
        ("scikit-image", "skimage/data/rocket.jpg"),
        ("scikit-image", "skimage/data/hubble_deep_field.jpg"),
        ("scikit-image", "skimage/data/ihc.png"),
        ("scikit-image", "skimage/data/retina.jpg"),
        ("scikit-image", "skimage/data/camera.png"),
        ("scikit-image", "skimage/data/brick.png"),
        ("scikit-image", "skimage/data/grass.png"),
        ("scikit-image", "skimage/data/gravel.png"),
        ("scikit-image", "skimage/data/moon.png"),
        ("scikit-image", "skimage/data/coins.png"),
    ),
    "val": (
        ("scikit-image", "skimage/data/astronaut.png"),
        ("scikit-image", "skimage/data/chelsea.png"),
        ("scikit-image", "skimage/data/coffee.png"),
    ),
}
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


class DataError(ValueError):
    """Data that cannot be used; the message names the file or folder and the way out."""


def read_image(path: pathlib.Path) -> np.ndarray:
    """uint8 RGB `[H, W, 3]` of an image file, upright as its EXIF orientation says.

    Raises:
      DataError: not a readable image.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError) as error:
        raise DataError(f"{path}: not a readable image ({error})") from error


class ImageFiles(Sequence[np.ndarray]):
    """Images from files, decoded at each access.

    Attributes:
      paths: of the images.
    """

    def __init__(self, paths: Sequence[pathlib.Path]):
        self.paths = tuple(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        return read_image(self.paths[index])

    def __repr__(self) -> str:
        """The files themselves: grain tells sources apart by this."""
        return f"ImageFiles({', '.join(map(str, self.paths))})"


class CachedImageFiles(ImageFiles):
    """Images of a set small enough to stay decoded in memory."""

    def __init__(self, paths: Sequence[pathlib.Path]):
        super().__init__(paths)
        self._read = functools.cache(read_image)

    def __getitem__(self, index: int) -> np.ndarray:
        return self._read(self.paths[index])


def photos(split: str) -> ImageFiles:
    """The embedded photos of 'train' or 'val'."""
    return CachedImageFiles(
        [
            pathlib.Path(importlib.metadata.distribution(package).locate_file(file))
            for package, file in PHOTOS[split]
        ]
    )


def folder(path: str, split: str) -> ImageFiles:
    """All images below `path/split`, in the order of their names.

    Raises:
      DataError: no such folder, or no image in it.
    """
    root = pathlib.Path(path) / split
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; config.data.path needs subfolders train and val")
    paths = sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not paths:
        raise DataError(f"{root}: no image in it; looked for {', '.join(SUFFIXES)}")
    return ImageFiles(paths)


def open_source(source: str, path: str, split: str) -> ImageFiles:
    """The source of that name ('photos' or 'folder') for 'train' or 'val'."""
    if source == "photos":
        return photos(split)
    return folder(path, split)
