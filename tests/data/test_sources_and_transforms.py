"""Photos, folders, bad files; crops and ranges."""

import numpy as np
import pytest
from PIL import Image

from epsilon_vae.data import transforms
from epsilon_vae.data.sources import PHOTOS, DataError, open_source, photos


def test_embedded_photos_are_there_and_apart():
    assert not set(PHOTOS["train"]) & set(PHOTOS["val"])
    for split in ("train", "val"):
        for image in photos(split):
            assert image.dtype == np.uint8 and image.shape[2] == 3 and min(image.shape[:2]) >= 256


def test_folder_finds_images_below_in_order(tmp_path):
    for name in ("b/x.png", "a/y.JPG", "a/note.txt"):
        (tmp_path / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("txt"):
            (tmp_path / "train" / name).write_text("no picture")
        else:
            Image.new("L", (40, 30), 7).save(tmp_path / "train" / name)
    source = open_source("folder", str(tmp_path), "train")
    assert [path.name for path in source.paths] == ["y.JPG", "x.png"]
    assert source[1].shape == (30, 40, 3)
    assert np.all(source[1] == 7)


def test_exif_orientation_is_followed(tmp_path):
    image = Image.new("RGB", (40, 30))
    exif = image.getexif()
    exif[0x0112] = 6  # turned by 90 degrees
    (tmp_path / "val").mkdir()
    image.save(tmp_path / "val" / "turned.jpg", exif=exif)
    assert open_source("folder", str(tmp_path), "val")[0].shape == (40, 30, 3)


def test_unreadable_image_is_named(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "broken.png").write_bytes(b"\x89PNG not really")
    with pytest.raises(DataError, match="broken.png: not a readable image"):
        open_source("folder", str(tmp_path), "train")[0]


def test_missing_and_empty_folders_are_named(tmp_path):
    with pytest.raises(DataError, match="train: no such folder"):
        open_source("folder", str(tmp_path), "train")
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match="train: no image in it"):
        open_source("folder", str(tmp_path), "train")


def test_range_and_rounding():
    values = np.arange(256, dtype=np.uint8).reshape(1, 256, 1)
    floats = transforms.to_float(values)
    assert floats.min() == -1 and floats.max() == 1 and floats.dtype == np.float32
    np.testing.assert_array_equal(transforms.to_uint8(floats), values)
    np.testing.assert_array_equal(transforms.to_uint8(np.array([-7.0, 7.0])), [0, 255])


def test_center_crop_takes_the_middle_square():
    image = np.zeros((64, 128, 3), np.uint8)
    image[:, 32:96] = 200
    crop = transforms.center_crop(image, 32)
    assert np.all(crop[:, 2:-2] == 200)
    assert np.all(crop[:, [0, -1]] < 200)  # bicubic sees what lies beside the crop


@pytest.mark.parametrize("crop", transforms.CROPS.values())
@pytest.mark.parametrize("size", [(64, 64), (50, 200), (200, 41), (20, 20)])
def test_random_crops_have_the_size_and_stay_inside(crop, size):
    image = np.full((*size, 3), 90, np.uint8)
    for seed in range(20):
        out = crop(image, 32, np.random.default_rng(seed))
        assert out.shape == (32, 32, 3) and np.all(out == 90)


def test_random_crop_moves_along_the_long_side():
    image = np.broadcast_to(np.arange(200, dtype=np.uint8)[None, :, None], (50, 200, 3))
    means = [
        transforms.random_crop(np.ascontiguousarray(image), 50, np.random.default_rng(s)).mean()
        for s in range(50)
    ]
    assert min(means) < 50 and max(means) > 150
