"""From a file's bytes to upright, 8-bit RGB pixels; PIL does the decoding."""

import io
import math
import pathlib
import struct
import warnings

import numpy as np
from PIL import Image, ImageOps

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
# A decompression bomb: beyond this, a small file may fill the memory. PIL only warns; we refuse.
MAX_PIXELS = Image.MAX_IMAGE_PIXELS
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

_ORIENTATION = 0x0112
_BROKEN_FILE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error)


class DataError(ValueError):
    """Data that cannot be used; the message names the file or folder and the way out."""


class DecodeError(ValueError):
    """Bytes that are not an image that can be used; the message says why."""


def open_image(data: bytes) -> Image.Image:
    """The image, upright as its EXIF orientation says; a JPEG's pixels are not decoded yet.

    Raises:
      DecodeError: not an image, broken, or too large.
    """
    if not data:
        raise DecodeError("zero bytes")
    try:
        image = Image.open(io.BytesIO(data))
        if image.width * image.height > MAX_PIXELS:
            raise DecodeError(f"{image.width} x {image.height} is more than {MAX_PIXELS} pixels")
        upright = "exif" not in image.info or image.getexif().get(_ORIENTATION, 1) == 1
        if not (upright and image.format in ("JPEG", "MPO")):
            ImageOps.exif_transpose(image, in_place=True)
        return image
    except DecodeError:
        raise
    except (*_BROKEN_FILE_ERRORS, Image.DecompressionBombError) as error:
        raise DecodeError(_reason(error)) from error


def reduce(image: Image.Image, min_width: float, min_height: float) -> int:
    """Has a JPEG decoded at 1/2, 1/4 or 1/8, as far as it stays at least so large; what divides.

    libjpeg then takes only the low frequencies of each block's DCT.
    """
    if image.format not in ("JPEG", "MPO") or image.width == 0:
        return 1
    size = image.size
    image.draft("RGB", (math.ceil(min_width), math.ceil(min_height)))
    return round(size[0] / image.width)


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB: 16 bits lose the lower eight, transparent pixels come to lie on white.

    Raises:
      DecodeError: broken, or floating point.
    """
    try:
        image.load()
        if image.mode == "RGB" and "transparency" not in image.info:
            return image
        if image.mode.startswith("I"):
            high = np.asarray(image) >> 8
            return Image.fromarray(np.clip(high, 0, 255).astype(np.uint8)).convert("RGB")
        if image.mode == "F":
            raise DecodeError("floating-point pixels, whose range is not known")
        if image.has_transparency_data:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image)
        return image.convert("RGB")
    except DecodeError:
        raise
    except _BROKEN_FILE_ERRORS as error:
        raise DecodeError(_reason(error)) from error


def read_image(path: pathlib.Path) -> np.ndarray:
    """uint8 RGB `[H, W, 3]` of an image file, upright.

    Raises:
      DataError: not a readable image.
    """
    try:
        return np.asarray(to_rgb(open_image(path.read_bytes())))
    except (OSError, DecodeError) as error:
        raise DataError(f"{path}: not a readable image ({error})") from error


def _reason(error: Exception) -> str:
    """PIL's message without the address of the buffer that it read from."""
    message = (str(error) or type(error).__name__).split("\n")[0]
    return message.split(" <_io.")[0]
