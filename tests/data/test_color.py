"""What says how pixels are meant: ICC profiles, transparency of any depth; and what does not."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from epsilon_vae.data.decode import DEFAULT, DecodeError, EncodedImage, ImageDecoding
from epsilon_vae.data.pipeline import BadRecords, TrainingBatches, evaluation_batches
from epsilon_vae.data.records import Record
from tests.attack.mutations import make_png, png_chunks
from tests.data import profiles
from tests.data.hostile import encode

COLORS = ((60, 170, 70), (200, 60, 50), (40, 80, 170), (255, 255, 255), (0, 0, 0))
AS_IT_IS = ImageDecoding(convert_profiles=False)
OF_FORMAT = {
    "PNG": {},
    "TIFF": {},
    "JPEG": {"quality": 100, "subsampling": 0},
    "WEBP": {"lossless": True},
    "AVIF": {"quality": 100, "subsampling": "4:4:4"},
}


def pixel(data: bytes, decoding: ImageDecoding = DEFAULT) -> np.ndarray:
    """The color of an image of one, by both ways."""
    encoded = EncodedImage(data, decoding)
    image, reduced = encoded.rgb(), encoded.rgb_reduced(0.125)[0]
    assert image.mode == reduced.mode == "RGB"
    np.testing.assert_allclose(image.getpixel((2, 2)), reduced.getpixel((0, 0)), atol=2)
    return np.array(image.getpixel((2, 2)))


@pytest.mark.parametrize("file_format", OF_FORMAT)
@pytest.mark.parametrize("primaries", [profiles.P3, profiles.ADOBE])
def test_rgb_profiles_are_converted_to_srgb(file_format, primaries):
    profile = profiles.rgb_profile(primaries)
    for color in COLORS:
        image = Image.new("RGB", (16, 16), color)
        data = encode(image, file_format, icc_profile=profile, **OF_FORMAT[file_format])
        given = pixel(data, AS_IT_IS)
        np.testing.assert_allclose(given, color, atol=3)
        np.testing.assert_allclose(pixel(data), profiles.in_srgb(given, primaries), atol=2)


def test_grey_and_cmyk_profiles_and_those_of_other_colors():
    grey = Image.new("L", (16, 16), 90)
    for file_format in ("PNG", "JPEG"):
        data = encode(grey, file_format, icc_profile=profiles.grey_profile(1.8))
        expected = profiles.in_srgb((90,) * 3, profiles.SRGB, 1.8)
        np.testing.assert_allclose(pixel(data), expected, atol=2)
        # One of RGB fits grey too, whose values are three of the same.
        data = encode(grey, file_format, icc_profile=profiles.rgb_profile(gamma=1.8))
        np.testing.assert_allclose(pixel(data), expected, atol=2)
    ink = Image.new("CMYK", (16, 16), (0, 0, 0, 128))
    data = encode(ink, "JPEG", icc_profile=profiles.cmyk_profile(), quality=100)
    np.testing.assert_allclose(pixel(data), 119, atol=2)  # L* = 50
    np.testing.assert_allclose(pixel(data, AS_IT_IS), 127, atol=2)
    for profile in (profiles.cmyk_profile(), profiles.grey_profile(1.8), b"no profile", bytes(200)):
        data = encode(Image.new("RGB", (16, 16), COLORS[0]), "PNG", icc_profile=profile)
        np.testing.assert_array_equal(pixel(data), COLORS[0])


def test_palette_and_alpha_and_turned_images_are_converted_too():
    profile = profiles.rgb_profile()
    image = Image.new("RGB", (16, 16), COLORS[0])
    expected = profiles.in_srgb(COLORS[0])
    data = encode(image.quantize(4), "PNG", icc_profile=profile)
    np.testing.assert_allclose(pixel(data), expected, atol=2)
    image.putalpha(51)
    data = encode(image, "PNG", icc_profile=profile)
    np.testing.assert_allclose(pixel(data), 0.2 * expected + 0.8 * 255, atol=2)


def test_profiles_that_are_srgb_change_nothing():
    """Also under another name."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8))
    made = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (made, made.replace(b"sRGB built-in", b"anothers name")):
        np.testing.assert_array_equal(EncodedImage(encode(image, icc_profile=profile)).rgb(), image)


def test_training_and_evaluation_convert_unless_they_are_told_not_to():
    data = encode(Image.new("RGB", (32, 32), COLORS[0]), icc_profile=profiles.rgb_profile())
    source = [Record(data, None, "wide.png")]
    for decoding, color in ((None, profiles.in_srgb(COLORS[0])), (AS_IT_IS, COLORS[0])):
        options = {"resolution": 32, "bad_records": BadRecords(0, 1)}
        options |= {"decoding": decoding} if decoding else {}
        training = TrainingBatches(
            source, 1, seed=0, crop="random", flip=False, reduced_jpeg=True, **options
        )
        [held_out] = evaluation_batches(source, 1, crop="center_crop_adm", **options)
        for batch in (next(training), held_out):
            np.testing.assert_allclose((batch["image"][0, 5, 5] + 1) * 127.5, color, atol=2)
        training.close()


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("color", [0, 2])
def test_transparency_of_any_depth_lies_on_white(bits, color):
    """`color` is 0 for grey, 2 for RGB. What differs from the transparent one in a bit is solid."""
    if color == 2 and bits < 8:
        pytest.skip("there is none")
    top = 2**bits - 1
    clear = [top // 2] * 3 if color else [top // 2]
    near = [*clear[:-1], clear[-1] ^ 1]
    samples = [0, *([0] * 2 if color else []), *clear, *near, *([top] * len(clear))]
    width = 4
    packed = "".join(f"{sample:0{bits}b}" for sample in samples)
    packed = packed.ljust(-(-len(packed) // 8) * 8, "0")
    row = b"\0" + int(packed, 2).to_bytes(len(packed) // 8)
    header = struct.pack(">IIBBBBB", width, 2, bits, color, 0, 0, 0)
    transparency = b"".join(struct.pack(">H", value) for value in clear)
    data = make_png(
        [
            (b"IHDR", header),
            (b"tRNS", transparency),
            (b"IDAT", zlib.compress(row * 2)),
            (b"IEND", b""),
        ]
    )
    expected = np.array(samples).reshape(width, -1)
    expected = (expected >> 8) if bits == 16 else expected * (255 // top)
    expected = np.broadcast_to(expected, (width, 3)).copy()
    expected[1] = 255
    if bits == 1:  # 0 is the transparent one, and there are two of it
        expected[0] = 255
    image = np.asarray(EncodedImage(data).rgb())
    np.testing.assert_array_equal(image, np.stack([expected, expected]))


def with_chunks(data: bytes, *added: tuple[bytes, bytes]) -> bytes:
    """A PNG with chunks after its header and before its end."""
    header, *rest, end = png_chunks(data)
    return make_png([header, *added, *rest, *added[:1], end])


LARGE_TEXTS = {
    "zTXt": (b"zTXt", b"Comment\0\0" + zlib.compress(b"a" * 3_000_000)),
    "iTXt": (b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(b"a" * 3_000_000)),
    "a bomb of 300 MB": (b"zTXt", b"Comment\0\0" + zlib.compress(b"a" * 300_000_000, 9)),
    "broken": (b"zTXt", b"Comment\0\7no stream"),
    "a date that is cut": (b"tIME", b"\0"),
    "a size that is cut": (b"pHYs", b"\0\0\0"),
}


@pytest.mark.parametrize("what", LARGE_TEXTS)
def test_metadata_of_a_png_does_not_decide_about_its_pixels(what, memory_limit):
    image = Image.new("RGB", (16, 16), COLORS[0])
    data = with_chunks(encode(image), LARGE_TEXTS[what])
    with memory_limit:
        np.testing.assert_array_equal(pixel(data), COLORS[0])
    cut = data[: data.index(b"IDAT") + 12]
    with pytest.raises(DecodeError):
        EncodedImage(cut)


def test_a_profile_of_megabytes_counts_and_one_that_is_broken_does_not():
    image = Image.new("RGB", (16, 16), COLORS[0])
    large = encode(image, icc_profile=profiles.rgb_profile(padding=2_000_000))
    np.testing.assert_allclose(pixel(large), profiles.in_srgb(COLORS[0]), atol=2)
    np.testing.assert_array_equal(pixel(large, AS_IT_IS), COLORS[0])
    zeros = encode(image, icc_profile=bytes(2_000_000))
    np.testing.assert_array_equal(pixel(zeros), COLORS[0])
    broken = with_chunks(encode(image), (b"iCCP", b"name\0\0no stream"))
    np.testing.assert_array_equal(pixel(broken), COLORS[0])


def test_checksum_of_a_text_does_not_decide_either():
    data = bytearray(with_chunks(encode(Image.new("RGB", (8, 8), COLORS[0])), (b"tEXt", b"a\0b")))
    data[data.index(b"tEXt") + 8] ^= 1
    np.testing.assert_array_equal(pixel(bytes(data)), COLORS[0])


def test_pixels_whose_range_is_not_known_are_refused():
    for array, words in (
        (np.ones((4, 4), np.float32), "floating-point pixels"),
        (np.full((4, 4), 70_000, np.int32), "32-bit pixels"),
    ):
        with pytest.raises(DecodeError, match=words):
            EncodedImage(encode(Image.fromarray(array), "TIFF")).rgb()
