"""Every kind of image file gives the right pixels, or says what is wrong with it."""

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from epsilon_vae.data.decode import DataError, DecodeError, open_image, read_image, reduce, to_rgb
from epsilon_vae.data.sources import Photos

GRADIENT = np.stack(np.meshgrid(np.arange(0, 240, 4), np.arange(0, 200, 5), [90]), -1)[:, :, 0]
RGB = Image.fromarray(GRADIENT.astype(np.uint8))  # 60 x 40, smooth


def encode(image: Image.Image, file_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def decode(data: bytes) -> np.ndarray:
    return np.asarray(to_rgb(open_image(data)))


def make_png(width: int, height: int, bits: int, color: int, rows: bytes) -> bytes:
    """A PNG by hand; `color` is 0 for grey, 2 for RGB."""

    def chunk(name: bytes, body: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(name + body))
        return struct.pack(">I", len(body)) + name + body + crc

    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def assert_close(data: bytes, expected, tolerance: float) -> None:
    image = decode(data)
    assert image.dtype == np.uint8 and image.shape == np.asarray(expected).shape
    assert np.abs(image.astype(int) - np.asarray(expected).astype(int)).max() <= tolerance


@pytest.mark.parametrize(
    ("file_format", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("JPEG", {"quality": 100, "subsampling": 0}, 3),
        ("JPEG", {"quality": 100, "subsampling": 0, "progressive": True}, 3),
    ],
)
def test_rgb(file_format, options, tolerance):
    assert_close(encode(RGB, file_format, **options), RGB, tolerance)


def test_grey():
    grey = RGB.convert("L")
    assert_close(encode(grey, "PNG"), grey.convert("RGB"), 0)
    assert_close(encode(grey, "JPEG", quality=100), grey.convert("RGB"), 2)


def test_black_and_white():
    assert_close(encode(RGB.convert("1"), "PNG"), RGB.convert("1").convert("RGB"), 0)


def test_palette():
    palette = RGB.quantize(16)
    assert_close(encode(palette, "PNG"), palette.convert("RGB"), 0)


def test_cmyk_jpeg():
    """Ink values as Photoshop stores them; 22 files of ImageNet are so."""
    assert_close(encode(RGB.convert("CMYK"), "JPEG", quality=100, subsampling=0), RGB, 8)


def test_16_bit_grey_keeps_the_upper_eight():
    values = np.linspace(0, 65535, 60 * 40).astype(np.uint16).reshape(40, 60)
    expected = np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=2)
    assert_close(encode(Image.fromarray(values), "PNG"), expected, 0)


def test_16_bit_rgb_keeps_the_upper_eight():
    """PIL writes none."""
    rows = b"".join(
        b"\0" + b"".join(struct.pack(">3H", *(int(v) * 256 + 77 for v in pixel)) for pixel in row)
        for row in GRADIENT
    )
    assert_close(make_png(60, 40, bits=16, color=2, rows=rows), RGB, 0)


@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
def test_transparent_pixels_lie_on_white(file_format):
    alpha = np.zeros((40, 60), np.uint8)
    alpha[:, 20:40], alpha[:, 40:] = 51, 255  # clear, a fifth, solid
    image = Image.fromarray(np.dstack([np.asarray(RGB), alpha]))
    share = alpha[..., None] / 255
    expected = np.rint(np.asarray(RGB) * share + 255 * (1 - share))
    assert_close(encode(image, file_format, lossless=True), expected, 1)


def test_transparent_grey_and_palette_lie_on_white():
    grey = Image.new("LA", (60, 40), (10, 0))
    assert_close(encode(grey, "PNG"), Image.new("RGB", (60, 40), "white"), 0)
    palette = Image.new("P", (60, 40), 0)
    palette.putpalette([200, 0, 0, 0, 200, 0])
    assert_close(encode(palette, "PNG", transparency=0), Image.new("RGB", (60, 40), "white"), 0)


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(file_format, orientation):
    """What each number undoes, in NumPy: the EXIF standard's table."""
    undo = {
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.transpose(1, 0, 2),
        6: lambda x: np.rot90(x, -1),
        7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
        8: lambda x: np.rot90(x),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(RGB, file_format, exif=exif, lossless=True, quality=100, subsampling=0)
    expected = undo[orientation](np.asarray(RGB))
    assert open_image(data).size == expected.shape[1::-1]
    assert_close(data, expected, 3 if file_format == "JPEG" else 0)


@pytest.mark.parametrize(("side", "scale"), [(200, 1), (160, 2), (80, 4), (41, 4), (40, 8), (3, 8)])
def test_reduced_jpeg_is_as_small_as_it_may_be(side, scale):
    image = open_image(encode(RGB.resize((481, 321)), "JPEG"))
    assert reduce(image, side, side) == scale
    small = to_rgb(image)
    assert small.size == (-(-481 // scale), -(-321 // scale)) and min(small.size) >= side


def test_other_formats_are_not_reduced():
    image = open_image(encode(RGB, "PNG"))
    assert reduce(image, 1, 1) == 1 and image.size == RGB.size


def test_zero_bytes_and_what_is_no_image():
    with pytest.raises(DecodeError, match="zero bytes"):
        open_image(b"")
    for data in (b"\0" * 999, b"<html>404</html>", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"):
        with pytest.raises(DecodeError, match="^[^<]+$"):
            decode(data)


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "JPEG"])
def test_truncated(file_format):
    """Cut anywhere before the last bytes, never half an image as if it were whole."""
    data = encode(Image.open(Photos("val").paths[1]).convert("RGB").resize((90, 60)), file_format)
    for length in range(1, len(data) - 16, len(data) // 40):
        with pytest.raises(DecodeError):
            decode(data[:length])


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "JPEG"])
def test_flipped_bits_raise_nothing_else(file_format):
    data = encode(RGB, file_format)
    rng = np.random.default_rng(0)
    for _ in range(300):
        broken = bytearray(data)
        for place in rng.integers(len(data), size=3):
            broken[place] ^= 1 << rng.integers(8)
        with contextlib.suppress(DecodeError):
            assert decode(bytes(broken)).shape[2] == 3


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_decompression_bomb(side):
    """PIL warns of the first and refuses the second; both are refused before they are unpacked."""
    with pytest.raises(DecodeError, match="pixels"):
        open_image(make_png(side, side, bits=1, color=0, rows=b""))


def test_read_image_names_the_file(tmp_path):
    with pytest.raises(DataError, match="nowhere.png: not a readable image .*No such file"):
        read_image(tmp_path / "nowhere.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(DataError, match="text.png: not a readable image .*cannot identify"):
        read_image(tmp_path / "text.png")
