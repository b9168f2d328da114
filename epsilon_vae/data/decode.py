"""Reads image files, and decodes their bytes to upright, 8-bit pixels in sRGB."""

import contextlib
import dataclasses
import io
import math
import os
import pathlib
import stat
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from epsilon_vae.data import png
from epsilon_vae.data.formats import FORMATS, kind_of
from epsilon_vae.data.profiles import to_srgb
from epsilon_vae.errors import UserError

# A decompression bomb: beyond this, a small file may fill the memory. PIL only warns; we refuse.
MAX_PIXELS = Image.MAX_IMAGE_PIXELS
# Three bytes a pixel at most, of what is not compressed at all.
MAX_FILE_BYTES = 3 * MAX_PIXELS
# What PIL warns of, as of an EXIF block that is cut, does not say which file it is about.
warnings.filterwarnings("ignore", module=r"PIL\.")

_ORIENTATION = 0x0112
_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPPING = [_TRANSPOSES[number] for number in (5, 6, 7, 8)]  # width and height


class DataError(UserError):
    """Data that cannot be used; the message names the file or folder and a remedy."""


class DecodeError(ValueError):
    """Bytes that are not an image that can be used; the message says why."""


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageDecoding:
    """How image files become pixels, besides what is the same for all.

    Attributes:
      convert_profiles: whether colors of an embedded ICC profile are converted to sRGB; if not,
        they are taken for sRGB's.
      max_pixels: of an image; one of more is refused.
    """

    convert_profiles: bool = True
    max_pixels: int = MAX_PIXELS

    @classmethod
    def of(cls, data: Any) -> "ImageDecoding":
        """What `config.data` says."""
        return cls(convert_profiles=data.convert_profiles, max_pixels=data.max_pixels)


DEFAULT = ImageDecoding()


class EncodedImage:
    """An image whose header has been read; upright, as its EXIF orientation says.

    Args:
      data: a file's bytes.
      decoding: how they are decoded.

    Attributes:
      size: width and height.
      format: as PIL calls it, whatever the file's name is.

    Raises:
      DecodeError: not an image, broken, or too large.
    """

    def __init__(self, data: bytes, decoding: ImageDecoding = DEFAULT):
        if not data:
            raise DecodeError("zero bytes")
        with _pil_errors():
            image, self._data = _open(data, decoding.max_pixels)
            self._transpose = _TRANSPOSES.get(_orientation(image))
        self._image = image
        self.format = "JPEG" if image.format == "MPO" else image.format
        self._profile = image.info.get("icc_profile") if decoding.convert_profiles else None
        if decoding.convert_profiles and self._data is not data:
            self._profile = png.profile(data)
        self.size = image.size[::-1] if self._transpose in _SWAPPING else image.size

    @property
    def header(self) -> Image.Image:
        """What PIL says of the file: its format, mode and info."""
        return self._image

    def rgb(self) -> Image.Image:
        """8-bit sRGB, decoded by PIL: 16 bits lose the lower eight, what is transparent is white.

        Raises:
          DecodeError: broken, or of pixels whose range is not known.
        """
        if self.format == "JPEG":
            _check_scan(self._data)
        with _pil_errors():
            image = self._image
            image.load()
            return self._finish(_opaque(image), _alpha(image, self._data))

    def rgb_reduced(self, min_scale: float) -> tuple[Image.Image, float]:
        """Decodes as `rgb`, a JPEG at no more than the size that is needed, and returns the scale.

        libjpeg can leave out the high frequencies of each 8x8 block's DCT, and give k x k pixels.

        Args:
          min_scale: in (0, 1]; the scale is k/8 with the least k ≤ 4 that is enough, else 1.

        Raises:
          DecodeError: as `rgb`.
        """
        if self.format != "JPEG" or self._image.mode not in ("RGB", "L"):
            return self.rgb(), 1.0
        eighths = math.ceil(8 * min_scale)
        eighths = eighths if eighths <= 4 else 8  # 5, 6 and 7 are slower than 8
        width, height = (math.ceil(side * eighths / 8) for side in self._image.size)
        try:
            pixels = simplejpeg.decode_jpeg(
                self._data, "RGB", min_height=height, min_width=width, min_factor=8 / eighths
            )
        except ValueError:  # PIL decodes what libjpeg only warns of, and tells the rest
            return self.rgb(), 1.0
        image = Image.fromarray(pixels)
        with _pil_errors():
            is_grey = self._profile and self._image.mode == "L"
            return self._finish(image.getchannel(0) if is_grey else image), eighths / 8

    def _finish(self, image: Image.Image, alpha: Image.Image | None = None) -> Image.Image:
        return _finish(image, alpha, profile=self._profile, transpose=self._transpose)


def pil_to_rgb(image: Image.Image) -> np.ndarray:
    """uint8 sRGB `[H, W, 3]` of an image of PIL, as `read_image` gives it of a file.

    Raises:
      DecodeError: broken, or of pixels whose range is not known.
    """
    with _pil_errors():
        image.load()
        alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
        profile, transpose = image.info.get("icc_profile"), _TRANSPOSES.get(_orientation(image))
        return np.asarray(_finish(_opaque(image), alpha, profile=profile, transpose=transpose))


def _finish(
    image: Image.Image,
    alpha: Image.Image | None,
    *,
    profile: bytes | None,
    transpose: Image.Transpose | None,
) -> Image.Image:
    """Upright and in sRGB, on white.

    Args:
      image: colors alone.
      alpha: how solid they are; None for all.
      profile: of the colors.
      transpose: that turns the image upright.
    """
    image = to_srgb(image, profile)
    if alpha is not None:
        image = Image.merge("RGBA", (*image.split(), alpha))
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image).convert("RGB")
    return image if transpose is None else image.transpose(transpose)


def _open(data: bytes, max_pixels: int) -> tuple[Image.Image, bytes]:
    """An image of PIL, and its bytes: those that its pixels need, if PIL refuses the others."""
    if Image.MAX_IMAGE_PIXELS is not None:  # of PIL, which raises at twice as many
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, max_pixels)
    try:
        return _open_whole(data, max_pixels), data
    except (DecodeError, MemoryError):
        raise
    except Exception as error:
        bare = png.without_metadata(data)
        try:
            if bare == data:
                raise
            return _open_whole(bare, max_pixels), bare
        except UnidentifiedImageError:
            raise DecodeError(_what_it_is(data)) from error


def _what_it_is(data: bytes) -> str:
    """Says what bytes are that PIL does not know."""
    kind = kind_of(data)
    if kind.upper() in FORMATS:
        return f"a broken {kind}"
    return f"its content is {kind}" if kind else "cannot identify image file"


def _open_whole(data: bytes, max_pixels: int) -> Image.Image:
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    if image.width * image.height > max_pixels:
        raise DecodeError(
            f"{image.width} x {image.height} is more than max_pixels = {max_pixels}; raise it"
        )
    if image.format == "PNG" and not png.has_all_rows(image, data):
        raise DecodeError("its compressed stream ends early")
    return image


def _orientation(image: Image.Image) -> int:
    """EXIF's number; 1 where there is none, or what there is cannot be read."""
    if image.format == "TIFF":  # PIL turns it
        return 1
    if image.format in ("JPEG", "MPO") and "exif" not in image.info:
        return 1
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # of many kinds; it says nothing of the pixels
        return 1


def _alpha(image: Image.Image, data: bytes) -> Image.Image | None:
    """How solid each pixel is, 0 to 255; None where all are."""
    if not image.has_transparency_data:
        return None
    if image.mode not in ("1", "L", "RGB") and not image.mode.startswith("I"):
        return image.convert("RGBA").getchannel("A")
    if image.format == "PNG":
        clear = png.is_transparent(image, data)
    else:  # a GIF whose palette is grey
        clear = np.asarray(image) == image.info["transparency"]
    return Image.fromarray(np.where(clear, 0, 255).astype(np.uint8))


def _opaque(image: Image.Image) -> Image.Image:
    """Colors alone, of mode L, RGB or CMYK; raises `DecodeError` where their range is not known."""
    if "transparency" in image.info:
        image = image.copy()
        del image.info["transparency"]  # which PIL would convert with the colors
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
        kind = "floating-point" if image.mode == "F" else "32-bit"
        raise DecodeError(f"{kind} pixels, whose range is not known")
    if image.mode.startswith("I"):
        high = np.asarray(image) >> 8
        return Image.fromarray(np.clip(high, 0, 255).astype(np.uint8))
    if image.mode in ("L", "RGB", "CMYK"):
        return image
    return image.convert("L" if image.mode in ("1", "LA") else "RGB")


def _check_scan(data: bytes) -> None:
    """Raises `DecodeError` for a JPEG of which a scan ends early, which PIL fills with grey."""
    try:  # at the least size: 1/8
        simplejpeg.decode_jpeg(data, "GRAY", min_height=1, min_width=1, min_factor=8)
    except ValueError as error:  # also of what it cannot decode, as PIL can
        if "premature end of data" in str(error):
            raise DecodeError("its compressed stream ends early") from error


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


def read_image(path: pathlib.Path, decoding: ImageDecoding = DEFAULT) -> np.ndarray:
    """uint8 sRGB `[H, W, 3]` of an image file, upright.

    Raises:
      DataError: not a readable image.
    """
    try:
        return np.asarray(EncodedImage(read_file(path), decoding).rgb())
    except (OSError, DecodeError) as error:
        raise DataError(f"{path}: not a readable image ({error})") from error
