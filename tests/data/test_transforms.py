"""Crops: where they lie, and their pixels against other implementations."""

import io

import numpy as np
import pytest
from PIL import Image

from epsilon_vae.data import transforms
from epsilon_vae.data.decode import DecodeError, EncodedImage
from epsilon_vae.data.sources import Photos


def photo(index: int, width: int, height: int) -> Image.Image:
    image = Image.open(Photos("val").paths[index]).convert("RGB")
    return image.resize((width, height), Image.Resampling.LANCZOS)


def encode(image: Image.Image, file_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def test_range_and_rounding():
    values = np.arange(256, dtype=np.uint8).reshape(1, 256, 1)
    floats = transforms.to_float(values)
    assert floats.min() == -1 and floats.max() == 1 and floats.dtype == np.float32
    np.testing.assert_array_equal(transforms.to_uint8(floats), values)
    np.testing.assert_array_equal(transforms.to_uint8(np.array([-7.0, 7.0])), [0, 255])


@pytest.mark.parametrize("crop", transforms.TRAINING_CROPS.values())
@pytest.mark.parametrize("size", [(64, 64), (50, 200), (200, 41), (20, 20), (1, 1), (1, 300)])
def test_boxes_stay_inside(crop, size):
    for seed in range(50):
        left, top, right, bottom = crop(*size, np.random.default_rng(seed))
        assert 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]


def test_random_crop_is_the_short_side_anywhere_along_the_long_one():
    boxes = [transforms.random_crop(200, 50, np.random.default_rng(seed)) for seed in range(300)]
    assert all(right - left == bottom - top == 50 for left, top, right, bottom in boxes)
    lefts = [box[0] for box in boxes]
    assert min(lefts) < 5 and max(lefts) > 145 and 65 < np.mean(lefts) < 85


def test_random_resized_crop_has_inceptions_areas_and_shapes():
    boxes = np.array(
        [transforms.random_resized_crop(400, 300, np.random.default_rng(i)) for i in range(2000)]
    )
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    share, shape = width * height / (400 * 300), width / height
    assert 0.075 < share.min() < 0.1 and 0.9 < share.max() <= 1
    assert 0.74 < shape.min() < 0.78 and 1.29 < shape.max() < 1.35


def test_render_enlarges_what_is_smaller_than_the_crop():
    image = EncodedImage(encode(Image.new("RGB", (20, 10), (90, 80, 70)), "PNG"))
    crop = transforms.render(image, (0, 0, 10, 10), size=32)
    assert crop.shape == (32, 32, 3) and np.all(crop == (90, 80, 70))


def test_render_is_the_crop_of_the_resized_photo():
    """Where the offset is a whole pixel of both: the box's resizing sees what lies beside it."""
    image = photo(2, 256, 128)
    whole = np.asarray(image.resize((128, 64), Image.Resampling.BICUBIC))
    box = transforms.render(EncodedImage(encode(image, "PNG")), (40, 0, 168, 128), size=64)
    np.testing.assert_array_equal(box, whole[:, 20:84])


def test_render_of_a_reduced_jpeg_is_in_place():
    """Decoded at 1/2, 1/4, 1/8: the same crop, but for what a coarser decoding loses.

    Shifted by one pixel of the crop, it would be far off.
    """
    data = encode(photo(1, 1201, 901), "JPEG", quality=95)
    for size in (300, 150, 75):
        box = (123, 45, 923, 845)
        full = transforms.render(EncodedImage(data), box, size=size, reduced_jpeg=False).astype(
            float
        )
        reduced = transforms.render(EncodedImage(data), box, size=size).astype(float)
        error = np.sqrt(np.mean((full - reduced) ** 2))
        shifted = np.sqrt(np.mean((full[:, 1:] - reduced[:, :-1]) ** 2))
        assert 0 < error < 0.5 * shifted


def test_adm_crop_against_its_definition_in_numpy():
    """Means of pairs, across and down, twice, since 260 and 130 are at least twice 64; bicubic
    by 64/65; the centre. PIL rounds after each direction."""
    image = photo(0, 400, 260)
    halved = np.asarray(image, float)
    for _ in range(2):
        height, width = halved.shape[:2]
        halved = np.floor(halved.reshape(height, width // 2, 2, 3).mean(2) + 0.5)
        halved = np.floor(halved.reshape(height // 2, 2, width // 2, 3).mean(1) + 0.5)
    resized = Image.fromarray(halved.astype(np.uint8)).resize((98, 64), Image.Resampling.BICUBIC)
    expected = np.asarray(resized)[:, 17:81]
    np.testing.assert_array_equal(transforms.center_crop_adm(image, 64), expected)


def test_the_two_evaluation_crops_differ_and_agree_in_place():
    image = photo(1, 576, 384)
    adm, bicubic = (crop(image, 128) for crop in transforms.EVALUATION_CROPS.values())
    assert adm.shape == bicubic.shape == (128, 128, 3)
    difference = np.abs(adm.astype(float) - bicubic).mean()
    assert 0 < difference < 0.5 * np.abs(adm[:, 1:].astype(float) - bicubic[:, :-1]).mean()


@pytest.mark.parametrize("crop", transforms.EVALUATION_CROPS.values())
@pytest.mark.parametrize("size", [(20, 10), (33, 50), (1, 1), (129, 128)])
def test_evaluation_crops_take_any_size(crop, size):
    assert np.all(crop(Image.new("RGB", size, (9, 8, 7)), 128) == (9, 8, 7))


@pytest.mark.parametrize("crop", transforms.EVALUATION_CROPS.values())
def test_a_thread_of_pixels_is_refused(crop):
    with pytest.raises(DecodeError, match="1 x 70000: too long and narrow"):
        crop(Image.new("RGB", (1, 70000)), 128)
