"""From a photo to a network's input: crops, flips, and the range [-1, 1].

Images come in as uint8 `[H, W, 3]` and leave as uint8 crops `[size, size, 3]`; `to_float` does the
rest. All resizing is PIL's antialiased bicubic, of the whole image: pixels next to a crop count at
its border, as when the image is resized before it is cropped.
"""

import math

import numpy as np
from PIL import Image

Box = tuple[float, float, float, float]


def to_float(images: np.ndarray) -> np.ndarray:
    """uint8 → float32 in [-1, 1]."""
    return images.astype(np.float32) / 127.5 - 1.0


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Float in [-1, 1] (what lies outside is clipped) → uint8, rounded to nearest."""
    return np.clip(np.rint((np.asarray(images, np.float32) + 1.0) * 127.5), 0, 255).astype(np.uint8)


def _resize(image: np.ndarray, size: int, box: Box) -> np.ndarray:
    picture = Image.fromarray(image)
    return np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC, box, reducing_gap=3.0))


def center_crop(image: np.ndarray, size: int) -> np.ndarray:
    """The largest centred square, resized (evaluation)."""
    height, width = image.shape[:2]
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    return _resize(image, size, (left, top, left + side, top + side))


def random_crop(image: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Short side resized to `size`, then a random square along the long side (paper's training)."""
    height, width = image.shape[:2]
    side = min(height, width)
    left, top = rng.integers(width - side + 1), rng.integers(height - side + 1)
    return _resize(image, size, (left, top, left + side, top + side))


def random_resized_crop(image: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """A random box, 8 to 100 % of the area, of shape 3:4 to 4:3 (Szegedy et al. 2015)."""
    height, width = image.shape[:2]
    for _ in range(10):
        area = height * width * rng.uniform(0.08, 1.0)
        aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        box_width, box_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < box_width <= width and 0 < box_height <= height:
            left, top = rng.integers(width - box_width + 1), rng.integers(height - box_height + 1)
            return _resize(image, size, (left, top, left + box_width, top + box_height))
    return center_crop(image, size)


CROPS = {"random": random_crop, "random_resized": random_resized_crop}
