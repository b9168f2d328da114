"""Images that are broken: bad records, never half an image as if it were whole."""

import contextlib
import zlib

import numpy as np
import pytest
from PIL import Image

from epsilon_vae.data.decode import DataError, DecodeError, EncodedImage
from epsilon_vae.data.image_set import ImageSet
from tests.attack import mutations as attack
from tests.data.hostile import ROUNDS, encode, photo


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "I;16"])
def test_png_whose_stream_ends_with_a_row_is_no_image(mode):
    """PIL takes it as whole; also an image that is black at the bottom, which this one is not."""
    image = photo().convert("L").convert("I;16") if mode == "I;16" else photo().convert(mode)
    chunks = list(attack.png_chunks(encode(image)))
    rows = zlib.decompress(b"".join(body for name, body in chunks if name == b"IDAT"))
    for count in (0, 1, 8, 15):
        stream = zlib.compress(rows[: len(rows) // 16 * count])
        broken = attack.make_png([*chunks[:-2], (b"IDAT", stream), chunks[-1]])
        with pytest.raises(DecodeError, match="its compressed stream ends early|truncated"):
            EncodedImage(broken)
    black = Image.new(mode, (24, 16))
    np.testing.assert_array_equal(EncodedImage(encode(black)).rgb(), black_pixels(black))


def black_pixels(image: Image.Image) -> np.ndarray:
    return np.full((16, 24, 3), 255 if image.mode == "RGBA" else 0, np.uint8)


def test_interlaced_png_whose_stream_ends_early_is_no_image():
    """Its last row may be there: rows come in seven passes. All of one grey, by hand."""
    header = b"\0\0\0\x08\0\0\0\x07\x08\0\0\0\x01"
    passes = [(1, 1), (1, 1), (2, 1), (2, 2), (4, 2), (4, 4), (8, 3)]  # width, height
    rows = [b"\0" + b"\x09" * width for width, height in passes for _ in range(height)]
    for count in (len(rows), len(rows) - 1, 5):
        stream = zlib.compress(b"".join(rows[:count]))
        data = attack.make_png([(b"IHDR", header), (b"IDAT", stream), (b"IEND", b"")])
        if count == len(rows):
            assert np.all(np.asarray(EncodedImage(data).rgb()) == 9)
            continue
        with pytest.raises(DecodeError, match="ends early|truncated"):
            EncodedImage(data)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"exif": b"Exif\0\0"}])
def test_jpeg_whose_scan_ends_early_is_no_image(options):
    """PIL fills what is missing with grey."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = encode(Image.fromarray(pixels), "JPEG", **options)
    for share in (0.5, 0.9):
        for decode in (EncodedImage.rgb, lambda image: image.rgb_reduced(0.1)):
            with pytest.raises(DecodeError, match="ends early"):
                decode(EncodedImage(data[: int(share * len(data))] + b"\xff\xd9"))


def test_mutated_images_are_whole_or_bad():
    """Of a PNG: its pixels, or a bad record."""
    rng = np.random.default_rng(0)
    for file_format, image in (("PNG", photo()), ("WEBP", photo()), ("JPEG", photo((60, 40)))):
        data = encode(image, file_format)
        for _ in range(ROUNDS):
            with contextlib.suppress(DecodeError):
                EncodedImage(attack.mutate_bytes(data, rng)).rgb()
    data = encode(photo())
    for _ in range(ROUNDS):
        with contextlib.suppress(DecodeError):
            found = EncodedImage(attack.mutate_png(data, rng)).rgb()
            np.testing.assert_array_equal(found, photo())


def test_mutated_image_sets_are_read_or_refused(tmp_path, memory_limit):
    rng = np.random.default_rng(0)
    path = tmp_path / "set.npz"
    np.savez(path, arr_0=np.ones((3, 8, 8, 3), np.uint8), mu=np.ones(4), sigma=np.eye(4))
    data = path.read_bytes()
    with memory_limit:
        for _ in range(ROUNDS):
            path.write_bytes(attack.mutate_bytes(data, rng))
            with contextlib.suppress(DataError):
                images = ImageSet(str(path))
                for batch in images.batches(2):
                    assert np.all(batch == 1)
                images.moments(4)
