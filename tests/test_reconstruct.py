"""The reconstruct command on files and folders."""

import os
import re

import numpy as np
import pytest
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from epsilon_vae.data.decode import DataError
from epsilon_vae.data.sources import Photos
from epsilon_vae.reconstruct import find_pictures
from tests.processes import finish, start_alone


@pytest.fixture
def pictures(tmp_path):
    """A folder with two photos, small, of odd sizes, in subfolders."""
    for name, photo in zip(("a/cat.png", "b/cup.jpg"), Photos("val").paths[1:], strict=True):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True)
        Image.open(photo).resize((50, 37)).save(path)
    return tmp_path / "pictures"


def test_folder(finished_run, run_module, pictures, tmp_path):
    output = tmp_path / "out"
    process = run_module(
        "epsilon_vae.reconstruct",
        f"--workdir={finished_run}",
        str(pictures),
        f"--output={output}",
        "--steps=1",
    )
    out, _ = finish(process)
    written = Image.open(output / "a" / "cat.png")
    assert written.size == (50, 37) and (output / "b" / "cup.png").exists()
    printed = [float(value) for value in re.findall(r"PSNR (-?[\d.]+) dB", out)]
    original = np.asarray(Image.open(pictures / "a" / "cat.png"))
    expected = peak_signal_noise_ratio(original, np.asarray(written))
    assert printed[0] == pytest.approx(expected, abs=0.01)
    assert f"mean PSNR of 2 images: {np.mean(printed):.1f}"[:-1] in out


def test_missing_input_is_one_line_and_code_2(finished_run, tmp_path):
    process = start_alone(
        "epsilon_vae.reconstruct",
        f"--workdir={finished_run}",
        "nowhere.png",
        f"--output={tmp_path}/x.png",
    )
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2 and "Traceback" not in err
    assert "epsilon_vae: nowhere.png: no such file or folder" in err


def test_what_is_no_file_is_one_line_and_code_2(finished_run, run_module, tmp_path):
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "lost.png").symlink_to("nowhere")
    cases = {"fifo.png": "not a regular file", "lost.png": "No such file", "zero": "not a regular"}
    for name, words in cases.items():
        path = "/dev/zero" if name == "zero" else f"{tmp_path}/{name}"
        arguments = f"--workdir={finished_run}", path, f"--output={tmp_path}/out"
        process = run_module("epsilon_vae.reconstruct", *arguments)
        _, err = process.communicate(timeout=120)
        [line] = err.splitlines()
        assert process.returncode == 2 and words in line and path in line


def test_one_file_may_be_written_to_a_file(pictures, tmp_path):
    source = pictures / "a" / "cat.png"
    assert find_pictures([str(source)], f"{tmp_path}/o.png") == [(source, tmp_path / "o.png")]
    with pytest.raises(DataError, match="a picture ends in"):
        find_pictures([str(source)], f"{tmp_path}/o.txt")


def test_two_inputs_of_one_name_are_refused(pictures, tmp_path):
    other = pictures / "b" / "cat.png"
    Image.new("RGB", (8, 8)).save(other)
    with pytest.raises(DataError, match="would both be written to"):
        find_pictures([str(pictures / "a" / "cat.png"), str(other)], str(tmp_path / "out"))


def test_empty_folder_is_named(tmp_path):
    with pytest.raises(DataError, match="no image in it"):
        find_pictures([str(tmp_path)], str(tmp_path / "out"))
