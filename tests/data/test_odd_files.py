"""Files that people have, as the table in docs/guides/data.md: what each gives."""

import io

import numpy as np
import pytest
from PIL import Image

from epsilon_vae.data.decode import EncodedImage
from tests.data.hostile import encode, photo
from tests.data.profiles import cmyk_profile, in_srgb, rgb_profile


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(EncodedImage(data).rgb())


@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff_of_16_bit_grey(order):
    values = np.linspace(0, 65535, 16 * 24).reshape(16, 24).astype(f"{order}u2")
    data = encode(Image.fromarray(values), "TIFF")
    assert data[:2] == {"<": b"II", ">": b"MM"}[order]
    np.testing.assert_array_equal(pixels(data)[..., 1], values >> 8)


def test_first_frame_of_a_gif_lies_on_white():
    frames = [Image.new("P", (8, 8), index) for index in (0, 1)]
    for frame in frames:
        frame.putpalette([10, 20, 30, 200, 0, 0])
    frames[0].paste(1, (0, 0, 4, 8))
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:], transparency=1)
    found = pixels(data)
    assert (found[:, :4] == 255).all() and (found[:, 4:] == (10, 20, 30)).all()


def test_grey_gif_with_a_transparent_color():
    image = Image.new("L", (8, 8), 9)
    image.paste(70, (0, 0, 4, 8))
    found = pixels(encode(image, "GIF", transparency=70))
    assert (found[:, 4:] == 9).all()
    assert (found[:, :4] == 255).all()


def test_bmp_of_four_channels():
    image = photo().convert("RGBA")
    np.testing.assert_array_equal(pixels(encode(image, "BMP")), photo())


def test_first_picture_of_an_mpo():
    buffer = io.BytesIO()
    first, second = Image.new("RGB", (16, 16), (200, 9, 9)), Image.new("RGB", (16, 16))
    first.save(buffer, "MPO", save_all=True, append_images=[second], quality=100)
    encoded = EncodedImage(buffer.getvalue())
    for image in (encoded.rgb(), encoded.rgb_reduced(0.5)[0]):
        np.testing.assert_allclose(np.asarray(image)[4, 4], (200, 9, 9), atol=3)
    assert encoded.format == "JPEG"


def test_cmyk_tiff_with_a_profile():
    image = Image.new("CMYK", (8, 8), (0, 0, 0, 128))
    np.testing.assert_allclose(
        pixels(encode(image, "TIFF", icc_profile=cmyk_profile())), 119, atol=2
    )


def test_palette_that_is_half_transparent_with_a_profile():
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 60, 170, 70])
    data = encode(image, "PNG", transparency=bytes([255, 128]), icc_profile=rgb_profile())
    expected = (in_srgb((60, 170, 70)) * 128 + 255 * 127) / 255
    np.testing.assert_allclose(pixels(data)[4, 4], expected, atol=2)
