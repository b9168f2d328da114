"""`epsilon_vae.data.check` tells of what is in data sets, and draws some of it."""

import io
import os

import numpy as np
import pytest
from PIL import Image, ImageCms

from tests.data.test_downloads import rows_of_images, write_parquet, write_shards

CHECK = "epsilon_vae.data.check"


def write(path, size=(96, 72), color=(200, 60, 50), kind="JPEG", mode="RGB", **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(path, kind, **options)


@pytest.fixture
def photos(tmp_path):
    """A folder of train and val, with one of each kind of special image."""
    folder = tmp_path / "photos"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    turned = Image.Exif()
    turned[0x0112] = 6
    write(folder / "train" / "cat" / "0.jpg", icc_profile=profile)
    write(folder / "train" / "cat" / "1.jpg", (300, 200), exif=turned.tobytes())
    write(folder / "train" / "dog" / "2.png", (600, 700), (0, 0, 0, 9), "PNG", "RGBA")
    write(folder / "train" / "dog" / "3.jpg", (600, 700), kind="PNG")
    write(folder / "train" / "dog" / "._3.jpg")
    (folder / "train" / "dog" / "4.jpg").write_bytes(b"<html>")
    write(folder / "val" / "cat" / "5.jpg")
    (folder / "notes.txt").write_text("x")
    return folder


def run(run_module, *arguments, **environment) -> tuple[int, str, str]:
    process = run_module(CHECK, *map(str, arguments), **environment)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_what_is_in_a_folder_is_told(photos, tmp_path, run_module):
    code, out, err = run(run_module, photos, f"--sheet={tmp_path}/sheet.png")
    assert code == 1 and err.endswith(
        "epsilon_vae: 1 broken images; replace them, or leave them out\n"
    )
    train, val = out.split(f"{photos}/val: ")
    assert f"{photos}/train: 5 images, 1 broken\n" in train
    assert "short side 72 to 600 px, median 600; 1 below 128; 2 below 256; 2 below 512; " in train
    assert "2 600x700" in train
    assert "  classes: 2, 2 (cat) to 3 (dog) images each\n" in train
    assert "  formats: 2 JPEG, 2 PNG\n" in train and "  modes: 3 RGB, 1 RGBA\n" in train
    assert "  profiles: 3 none, 1 sRGB built-in\n" in train
    assert "  named otherwise: 1 PNG called .jpg\n" in train
    assert "  transparent: 1\n" in train
    assert f"  broken: {photos}/train/dog/4.jpg: " in train
    assert val.startswith("1 images, 0 broken\n") and "contact sheet: " in val
    assert f"not checked: {photos}/notes.txt" in err


def test_contact_sheet_has_crops_and_replaces_nothing(photos, tmp_path, run_module):
    sheet = tmp_path / "sheet.png"
    run(run_module, photos / "val", photos / "train", f"--sheet={sheet}")
    pixels = np.asarray(Image.open(sheet))
    assert pixels.shape == (128, 5 * 128, 3)  # the broken one is left out
    assert np.abs(pixels[64, 64].astype(int) - (200, 60, 50)).max() < 4
    assert (pixels[64, 3 * 128 + 64] >= 245).all()  # transparent, on white
    before = sheet.read_bytes()
    code, _, err = run(run_module, photos / "val", f"--sheet={sheet}")
    assert code == 2 and "sheet.png: exists already; name another file" in err
    assert sheet.read_bytes() == before


def test_downloads_are_checked_as_they_are_prepared(tmp_path, run_module):
    write_shards(tmp_path / "wds")
    write_parquet(tmp_path / "hf" / "train-0.parquet", rows_of_images(3))
    tars = sorted((tmp_path / "wds").iterdir())
    sheet = f"--sheet={tmp_path}/sheet.png"
    code, out, err = run(run_module, *tars, tmp_path / "hf", "photos", sheet)
    assert code == 0, err
    assert f"{tmp_path}/wds: 4 images, 0 broken" in out and "0 (0) to 2 (2) images each" in out
    assert f"{tmp_path}/hf: 3 images, 0 broken" in out and "formats: 3 PNG" in out
    assert "photos: 14 images, 0 broken" in out and "named otherwise" not in out


def test_sources_that_cannot_be_used_are_named(tmp_path, run_module):
    for arguments, words in (((), "name what to check"), (("nowhere",), "nowhere: no such file")):
        code, _, err = run(run_module, *arguments, f"--sheet={tmp_path}/sheet.png")
        assert code == 2 and len(err.splitlines()) == 1 and words in err
    assert os.listdir(tmp_path) == []
    buffer = io.BytesIO()
    Image.new("RGB", (9, 9)).save(buffer, "PNG")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    code, _, err = run(run_module, tmp_path / "a.png")
    assert code == 2 and "neither a folder nor a tar" in err
