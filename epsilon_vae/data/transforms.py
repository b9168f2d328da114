"""Turns a photo into a network's input: crops, flips, and the range [-1, 1].

Training crops are boxes in the photo, drawn before it is decoded, so that a JPEG can be decoded at
the scale that its box needs; the box is resized by antialiased bicubic, from six times the size on
after averaging whole pixels. Evaluation crops decode in
full, and follow their protocols to the pixel. All of them enlarge what is smaller than the crop.
"""

import math

import numpy as np
from PIL import Image

from epsilon_vae.data.decode import MAX_PIXELS, DecodeError, EncodedImage
from epsilon_vae.errors import NonFiniteError

Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels


def to_float(images: np.ndarray) -> np.ndarray:
    """uint8 → float32 in [-1, 1]."""
    return images.astype(np.float32) / 127.5 - 1.0


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Float in [-1, 1] (what lies outside is clipped) → uint8, rounded to nearest.

    Raises:
      NonFiniteError: a pixel is NaN or infinite, which no color is.
    """
    images = np.asarray(images, np.float32)
    check_finite(images, "images")
    return np.clip(np.rint((images + 1.0) * 127.5), 0, 255).astype(np.uint8)


def check_finite(array: np.ndarray, what: str) -> None:
    """Raises `NonFiniteError`, which begins with `what`, where a number is NaN or infinite."""
    if not np.isfinite(array).all():
        share = 1 - np.isfinite(array).mean()
        raise NonFiniteError(f"{what}: {100 * share:.3g} % of the numbers are NaN or infinite")


def random_crop(width: int, height: int, rng: np.random.Generator) -> Box:
    """A square as large as the short side, anywhere along the long one (paper's training)."""
    side = min(width, height)
    left, top = rng.integers(width - side + 1), rng.integers(height - side + 1)
    return left, top, left + side, top + side


def random_resized_crop(width: int, height: int, rng: np.random.Generator) -> Box:
    """A box of 8 to 100 % of the area, of shape 3:4 to 4:3 (Inception: Szegedy et al. 2015).

    After ten that do not fit inside, the central square.
    """
    for _ in range(10):
        area = height * width * rng.uniform(0.08, 1.0)
        aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        box_width, box_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < box_width <= width and 0 < box_height <= height:
            left, top = rng.integers(width - box_width + 1), rng.integers(height - box_height + 1)
            return left, top, left + box_width, top + box_height
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def render(
    image: EncodedImage, box: Box, *, size: int, flip: bool = False, reduced_jpeg: bool = True
) -> np.ndarray:
    """The box, resized to uint8 `[size, size, 3]`, and mirrored if `flip`.

    Args:
      image: upright.
      box: in its pixels.
      size: of the crop.
      flip: mirrors it.
      reduced_jpeg: a JPEG may be decoded at a scale where the box stays at least `size` large;
        faster, and not quite the same pixels.

    Raises:
      DecodeError: broken.
    """
    min_scale = min(1.0, max(size / (box[2] - box[0]), size / (box[3] - box[1])))
    pixels, scale = image.rgb_reduced(min_scale if reduced_jpeg else 1.0)
    box = tuple(edge * scale for edge in box)
    pixels = pixels.resize((size, size), Image.Resampling.BICUBIC, box, reducing_gap=3.0)
    return np.asarray(pixels.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else pixels)


def center_crop_adm(image: Image.Image, size: int) -> np.ndarray:
    """uint8 `[size, size, 3]` as guided-diffusion (Dhariwal & Nichol 2021) crops.

    Halved by averaging 2x2 pixels while the short side stays at least twice the size, then bicubic
    to the size, then the centre.

    Raises:
      DecodeError: too long and narrow.
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = _resize(image, round(image.width * scale), round(image.height * scale))
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))


def center_crop_bicubic(image: Image.Image, size: int) -> np.ndarray:
    """uint8 `[size, size, 3]` as torchvision's `Resize(BICUBIC)` and `CenterCrop` on PIL images.

    Antialiased bicubic to the size in one go, the long side cut to a whole number, then the centre.

    Raises:
      DecodeError: too long and narrow.
    """
    short, long = min(image.size), max(image.size)
    long = int(size * long / short)
    wide = image.width > image.height
    image = _resize(image, long, size) if wide else _resize(image, size, long)
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def _resize(image: Image.Image, width: int, height: int) -> Image.Image:
    if width * height > MAX_PIXELS:
        raise DecodeError(f"{image.width} x {image.height}: too long and narrow to be resized")
    return image.resize((width, height), Image.Resampling.BICUBIC)


TRAINING_CROPS = {"random": random_crop, "random_resized": random_resized_crop}
EVALUATION_CROPS = {
    "center_crop_adm": center_crop_adm,
    "center_crop_bicubic": center_crop_bicubic,
}
