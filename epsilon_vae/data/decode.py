"""Reads image files, and decodes their bytes to upright, 8-bit RGB pixels."""

import contextlib
import io
import math
import os
import pathlib
import stat
import warnings
from collections.abc import Iterator

import numpy as np
import simplejpeg
from PIL import Image, ImageOps

from epsilon_vae.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
# A decompression bomb: beyond this, a small file may fill the memory. PIL only warns; we refuse.
MAX_PIXELS = Image.MAX_IMAGE_PIXELS
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# Three bytes a pixel at most, of what is not compressed at all.
MAX_FILE_BYTES = 3 * MAX_PIXELS

_ORIENTATION = 0x0112
# Whatever a file's name is. PIL knows more, and would start Ghostscript for some.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "PPM")


class DataError(UserError):
    """Data that cannot be used; the message names the file or folder and a remedy."""


class DecodeError(ValueError):
    """Bytes that are not an image that can be used; the message says why."""


def list_images(folder: pathlib.Path) -> list[pathlib.Path]:
    """Image files below a folder, by their suffixes, sorted; none where there is no such folder."""
    named = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    return sorted(path for path in named if not path.is_dir())


def check_regular(path: str | os.PathLike) -> None:
    """Raises `OSError` for what is no regular file: a FIFO would be waited for, a device be read.

    Links are followed.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError("not a regular file")


def check_size(size: int) -> None:
    """Raises `OSError` for a file of more bytes than `MAX_FILE_BYTES`."""
    if size > MAX_FILE_BYTES:
        raise OSError(f"{size} bytes, {MAX_FILE_BYTES} are the most")


def read_file(path: str | os.PathLike) -> bytes:
    """The bytes of an image file, or of another that must not be waited for or fill the memory.

    Raises:
      OSError: it is missing, no regular file, larger than `MAX_FILE_BYTES`, or cannot be read.
    """
    check_regular(path)
    check_size(os.path.getsize(path))
    with open(path, "rb") as file:
        return file.read(MAX_FILE_BYTES)


class EncodedImage:
    """An image whose header has been read; upright, as its EXIF orientation says.

    Args:
      data: a file's bytes.

    Attributes:
      size: width and height.

    Raises:
      DecodeError: not an image, broken, or too large.
    """

    def __init__(self, data: bytes):
        if not data:
            raise DecodeError("zero bytes")
        with _pil_errors():
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
            if image.width * image.height > MAX_PIXELS:
                raise DecodeError(
                    f"{image.width} x {image.height} is more than {MAX_PIXELS} pixels"
                )
            upright = "exif" not in image.info or image.getexif().get(_ORIENTATION, 1) == 1
            is_jpeg = image.format in ("JPEG", "MPO")
            if image.format == "PNG":
                _check_rows(image, data)
            if not (upright and is_jpeg):
                ImageOps.exif_transpose(image, in_place=True)
        self._image = image
        self._data = data if is_jpeg else None
        # What simplejpeg decodes as it is.
        self._jpeg = data if is_jpeg and upright and image.mode in ("RGB", "L") else None
        self.size = image.size

    @property
    def header(self) -> Image.Image:
        """What PIL says of the file: its format, mode and info."""
        return self._image

    def rgb(self) -> Image.Image:
        """8-bit RGB, decoded by PIL: 16 bits lose the lower eight, what is transparent is white.

        Raises:
          DecodeError: broken, or floating point.
        """
        if self._data is not None:
            _check_scan(self._data)
        with _pil_errors():
            return _to_rgb(self._image)

    def rgb_reduced(self, min_scale: float) -> tuple[Image.Image, float]:
        """Decodes as `rgb`, a JPEG at no more than the size that is needed, and returns the scale.

        libjpeg can leave out the high frequencies of each 8x8 block's DCT, and give k x k pixels.

        Args:
          min_scale: in (0, 1]; the scale is k/8 with the least k ≤ 4 that is enough, else 1.

        Raises:
          DecodeError: as `rgb`.
        """
        if self._jpeg is None:
            return self.rgb(), 1.0
        eighths = math.ceil(8 * min_scale)
        eighths = eighths if eighths <= 4 else 8  # 5, 6 and 7 are slower than 8
        width, height = (math.ceil(side * eighths / 8) for side in self.size)
        try:
            pixels = simplejpeg.decode_jpeg(
                self._jpeg, "RGB", min_height=height, min_width=width, min_factor=8 / eighths
            )
        except ValueError:  # PIL decodes what libjpeg only warns of, and tells the rest
            return self.rgb(), 1.0
        return Image.fromarray(pixels), eighths / 8


def _check_rows(image: Image.Image, data: bytes) -> None:
    """Loads a PNG, and raises `DecodeError` where its compressed stream ends before its rows do.

    PIL takes such a stream if it ends with a row, and leaves the other rows as they were: zeros. Of
    an image whose last row is that, those that differ when it is loaded over ones are missing.
    """
    image.load()
    last = image.crop((0, image.height - 1, *image.size))
    if np.any(np.asarray(last)) and not image.info.get("interlace"):
        return
    again = Image.open(io.BytesIO(data), formats=("PNG",))
    again.im = Image.new(again.mode, again.size, 1).im
    again.load()
    if not np.array_equal(np.asarray(image), np.asarray(again)):
        raise DecodeError("its compressed stream ends early")


def _check_scan(data: bytes) -> None:
    """Raises `DecodeError` for a JPEG of which a scan ends early, which PIL fills with grey."""
    try:  # at the least size: 1/8
        simplejpeg.decode_jpeg(data, "GRAY", min_height=1, min_width=1, min_factor=8)
    except ValueError as error:  # also of what it cannot decode, as PIL can
        if "premature end of data" in str(error):
            raise DecodeError("its compressed stream ends early") from error


def _to_rgb(image: Image.Image) -> Image.Image:
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


@contextlib.contextmanager
def _pil_errors() -> Iterator[None]:
    """Raises a `DecodeError` for whatever PIL raises for a broken file, which are many kinds."""
    try:
        yield
    except (DecodeError, MemoryError):
        raise
    except Exception as error:
        message = (str(error) or type(error).__name__).split("\n")[0]
        # Without the address of the buffer that it read from.
        raise DecodeError(message.split(" <_io.")[0]) from error


def read_image(path: pathlib.Path) -> np.ndarray:
    """uint8 RGB `[H, W, 3]` of an image file, upright.

    Raises:
      DataError: not a readable image.
    """
    try:
        return np.asarray(EncodedImage(read_file(path)).rgb())
    except (OSError, DecodeError) as error:
        raise DataError(f"{path}: not a readable image ({error})") from error
