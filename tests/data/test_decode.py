"""Every kind of image file gives the right pixels, or says what is wrong with it."""

import contextlib
import io
import math
import struct
import subprocess
import sys
import tracemalloc
import zlib

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from epsilon_vae.data.decode import (
    DataError,
    DecodeError,
    EncodedImage,
    ImageDecoding,
    read_image,
)
from epsilon_vae.data.sources import Photos

GRADIENT = np.stack(np.meshgrid(np.arange(0, 240, 4), np.arange(0, 200, 5), [90]), -1)[:, :, 0]
RGB = Image.fromarray(GRADIENT.astype(np.uint8))  # 60 x 40, smooth


def encode(image: Image.Image, file_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def decode(data: bytes) -> np.ndarray:
    """By both ways, which must agree."""
    encoded = EncodedImage(data)
    pixels, scale = encoded.rgb_reduced(1.0)
    image = np.asarray(encoded.rgb())
    np.testing.assert_array_equal(pixels, image)
    assert scale == 1 and encoded.size == image.shape[1::-1]
    return image


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
        ("JPEG", {"quality": 100, "keep_rgb": True}, 2),
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
    assert EncodedImage(data).size == expected.shape[1::-1]
    assert_close(data, expected, 3 if file_format == "JPEG" else 0)


@pytest.mark.parametrize(
    ("min_scale", "scale"),
    [(1, 1), (0.51, 1), (0.5, 0.5), (0.4, 0.5), (3 / 8, 3 / 8), (0.2, 0.25), (0.01, 0.125)],
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_jpeg_is_reduced_to_no_more_than_is_needed(min_scale, scale, mode):
    image = EncodedImage(encode(RGB.resize((481, 321)).convert(mode), "JPEG"))
    small, given = image.rgb_reduced(min_scale)
    assert given == scale and small.mode == "RGB"
    assert small.size == (math.ceil(481 * scale), math.ceil(321 * scale))


def test_other_formats_are_not_reduced():
    for data in (encode(RGB, "PNG"), encode(RGB.convert("CMYK"), "JPEG")):
        image, scale = EncodedImage(data).rgb_reduced(0.1)
        assert scale == 1 and image.size == RGB.size


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_jpegs_are_reduced_too(orientation):
    """As cameras write them: reduced and turned is as turned and reduced."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    encoded = EncodedImage(encode(RGB, "JPEG", exif=exif, quality=100, subsampling=0))
    image, scale = encoded.rgb_reduced(0.5)
    assert scale == 0.5 and image.size == (encoded.size[0] // 2, encoded.size[1] // 2)
    expected = encoded.rgb().resize(image.size, Image.Resampling.BOX)
    assert np.abs(np.asarray(image).astype(int) - np.asarray(expected)).max() <= 4


def test_a_broken_exif_block_does_not_decide_about_pixels():
    exif = Image.Exif()
    exif[0x0112], exif[271] = 6, "a camera" * 9
    for file_format in ("JPEG", "PNG", "WEBP"):
        whole = encode(RGB, file_format, exif=exif, lossless=True)
        tags = exif.tobytes().removeprefix(b"Exif\0\0")
        place = whole.index(tags)
        data = whole[:place] + b"\xff" * len(tags) + whole[place + len(tags) :]
        if file_format == "PNG":
            chunk = data[place - 4 : place + len(tags)]
            data = data.replace(
                chunk + whole[place + len(tags) :][:4], chunk + struct.pack(">I", zlib.crc32(chunk))
            )
        assert decode(data).shape == (40, 60, 3)


def test_a_process_says_nothing_of_exif_without_a_name(tmp_path):
    """PIL's own warnings name no file; pytest has filters of its own."""
    exif = Image.Exif()
    exif[271] = "a camera" * 9
    data = encode(RGB, "JPEG", exif=exif)
    place = data.index(b"a camera") - 18  # the number of tags
    (tmp_path / "cut.jpg").write_bytes(data[:place] + b"\xff\xff" + data[place + 2 :])
    code = (
        "from epsilon_vae.data.decode import read_image; import sys; "
        "print(read_image(sys.argv[1]).shape)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "cut.jpg"], capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("(40, 60, 3)\n", "")


def test_a_photo_of_more_pixels_is_read_where_that_is_allowed():
    """93.6 MP, at the scale that its crop needs: an eighth."""
    data = encode(Image.new("L", (10400, 9000), 90), "JPEG", quality=10)
    with pytest.raises(DecodeError, match="10400 x 9000 is more than max_pixels = 89478485"):
        EncodedImage(data)
    encoded = EncodedImage(data, ImageDecoding(max_pixels=10**8))
    tracemalloc.start()
    image, scale = encoded.rgb_reduced(128 / 9000)
    assert (scale, image.size) == (1 / 8, (1300, 1125))
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def test_jpeg_that_libjpeg_warns_of_is_decoded_in_full():
    """Stray bytes between markers: PIL takes them, so a run must not stop."""
    data = encode(RGB, "JPEG")
    table = data.index(b"\xff\xdb")
    warned = data[:table] + b"\0" * 7 + data[table:]
    with pytest.raises(ValueError, match="extraneous bytes"):
        simplejpeg.decode_jpeg(warned)
    image, scale = EncodedImage(warned).rgb_reduced(0.1)
    assert scale == 1
    np.testing.assert_array_equal(image, decode(data))


def test_zero_bytes_and_what_is_no_image():
    with pytest.raises(DecodeError, match="zero bytes"):
        EncodedImage(b"")
    postscript = encode(RGB, "EPS")  # PIL would have Ghostscript read it
    for data in (
        postscript,
        b"\0" * 999,
        b"<html>404</html>",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff",
    ):
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
        EncodedImage(make_png(side, side, bits=1, color=0, rows=b""))


def test_read_image_names_the_file(tmp_path):
    with pytest.raises(DataError, match="nowhere.png: not a readable image .*No such file"):
        read_image(tmp_path / "nowhere.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(DataError, match="text.png: not a readable image .*its content is text"):
        read_image(tmp_path / "text.png")
