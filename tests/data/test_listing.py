"""One listing of images for all who read folders and tars; what is left out is counted."""

import io
import logging
import re
import tarfile

import numpy as np
import pytest
from PIL import Image

from epsilon_vae.data import files
from epsilon_vae.data.archives import find_images
from epsilon_vae.data.decode import DataError, read_image
from epsilon_vae.data.files import list_images
from epsilon_vae.data.image_set import ImageSet
from epsilon_vae.data.sources import Folder
from epsilon_vae.evaluation.reconstructors import PictureFolder
from epsilon_vae.reconstruct import find_pictures
from tests.data.hostile import encode, photo

FORMATS = {
    "a.jpg": "JPEG",
    "b.jpeg": "JPEG",
    "c.JPE": "JPEG",
    "d.jfif": "JPEG",
    "e.png": "PNG",
    "f.webp": "WEBP",
    "g.bmp": "BMP",
    "h.gif": "GIF",
    "i.tif": "TIFF",
    "j.TIFF": "TIFF",
    "k.avif": "AVIF",
}


@pytest.fixture
def folder(tmp_path):
    """All formats, in a folder that is called as an image, behind a link, beside what is none."""
    names = tmp_path / "all" / "are.png"
    names.mkdir(parents=True)
    for name, file_format in FORMATS.items():
        (names / name).write_bytes(encode(photo(), file_format))
    root = tmp_path / "mine"
    (root / ".ipynb_checkpoints").mkdir(parents=True)
    (root / ".ipynb_checkpoints" / "0.png").write_bytes(encode(photo()))
    (root / "._0.jpg").write_bytes(b"\0\x05\x16\x07")
    (root / "notes.txt").write_text("none")
    (root / "photo.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    (root / "README").write_text("none")
    (root / "linked").symlink_to(tmp_path / "all")
    (root / "again").symlink_to(tmp_path / "all")
    (tmp_path / "all" / "loop").symlink_to(root)
    return root


@pytest.fixture
def warned(caplog):
    """What was logged, anew."""
    files._warn_once.cache_clear()
    with caplog.at_level(logging.WARNING, "absl"):
        yield caplog


LINE = "{}: 5 left out (2 hidden, 1 .heic, 1 .txt, 1 without a suffix)"


def test_all_readers_take_the_same_files(folder, warned, tmp_path):
    expected = {f"{link}/are.png/{name}" for link in ("again", "linked") for name in FORMATS}
    listed = {str(path.relative_to(folder)) for path in list_images(folder)}
    assert listed == expected
    assert {record.name for record in Folder(str(folder))} == {f"{folder}/{x}" for x in expected}
    assert set(find_images(str(folder)).names) == expected
    assert len(ImageSet(str(folder))) == len(expected)
    assert warned.messages == [LINE.format(folder)]  # however many readers there are
    one = PictureFolder(str(folder / "linked"))
    assert one.metadata["num_pictures"] == len(FORMATS)
    with pytest.raises(DataError, match="would both be written to .*a.png"):
        find_pictures([str(folder / "linked"), str(folder / "again")], str(tmp_path / "out"))


def test_all_formats_are_read(folder):
    for path in list_images(folder / "linked"):
        assert np.abs(read_image(path).astype(int) - np.asarray(photo())).mean() < 8, path


def test_tars_take_the_same_and_count(folder, warned, tmp_path):
    path = tmp_path / "in.tar"
    with tarfile.open(path, "w") as tar:
        for name in [*FORMATS, "._0.jpg", ".x/0.jpg", "notes.txt", "0.npy"]:
            data = encode(photo(), FORMATS.get(name, "PNG"))
            info = tarfile.TarInfo(f"class/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    assert find_images(str(path)).names == [f"class/{name}" for name in FORMATS]
    assert warned.messages == [f"{path}: 4 left out (2 hidden, 1 .npy, 1 .txt)"]


def test_links_that_lead_to_each_other_end(tmp_path):
    for name in "abc":
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes(encode(photo()))
        for other in "abc":
            (tmp_path / name / f"to_{other}").symlink_to(tmp_path / other)
    found = [str(path.relative_to(tmp_path)) for path in list_images(tmp_path / "a")]
    assert found == [f"a/{x}0.png" for x in ("", "to_b/", "to_b/to_c/", "to_c/", "to_c/to_b/")]


CONTENTS = {
    "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "a camera's raw file (CR3)": b"\0\0\0\x18ftypcrx ",
    "a video (MP4 or MOV)": b"\0\0\0\x18ftypisom",
    "JPEG XL": b"\0\0\0\x0cJXL \r\n\x87\n",
    "PSD": b"8BPS\0\1",
    "PDF": b"%PDF-1.7\n",
    "an HTML page": b"\n<!DOCTYPE html><html>404</html>",
    "SVG": b'<?xml version="1.0"?><svg></svg>',
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
    "AppleDouble": b"\0\x05\x16\x07\0\2\0\0",
    "text": b"no image\n",
    "a ZIP archive": b"PK\x03\x04",
}


@pytest.mark.parametrize("kind", CONTENTS)
def test_what_is_no_image_is_called_what_it_is(kind, tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(CONTENTS[kind])
    with pytest.raises(DataError, match=rf"photo.jpg: .*its content is {re.escape(kind)}"):
        read_image(path)


def test_images_under_names_of_other_formats_are_read(tmp_path):
    for file_format in ("PNG", "WEBP", "TIFF"):
        (tmp_path / "photo.jpg").write_bytes(encode(photo(), file_format, lossless=True))
        np.testing.assert_array_equal(read_image(tmp_path / "photo.jpg"), photo())


def test_images_of_generate_are_measured_without_their_grid(tmp_path):
    for index in range(3):
        part = tmp_path / "images" / f"part-{index:05d}"
        part.mkdir(parents=True)
        Image.new("RGB", (8, 8), (index, 0, 0)).save(part / f"{index:08d}.png")
    Image.new("RGB", (32, 32)).save(tmp_path / "grid.png")
    images = ImageSet(str(tmp_path))
    [batch] = images.batches(8)
    assert batch[:, 0, 0, 0].tolist() == [0, 1, 2] and batch.shape[1:] == (8, 8, 3)
    assert images.path == tmp_path / "images"
    np.savez(tmp_path / "images.npz", arr_0=np.ones((5, 8, 8, 3), np.uint8))  # --format=npz
    assert len(ImageSet(str(tmp_path))) == 5
