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
from tests.data.profiles import in_srgb, rgb_profile
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


def test_large_pictures_are_cut_into_tiles_and_that_is_said(finished_run, run_module, tmp_path):
    """The run is of 32 px: pictures of more than 128 x 128 are cut, unless that is forbidden."""
    Image.open(Photos("val").paths[0]).resize((200, 130)).save(tmp_path / "x.png")
    command = "epsilon_vae.reconstruct", f"--workdir={finished_run}", f"{tmp_path}/x.png"
    for flags, said in (((), "200 x 130 px in 12 tiles of 64 px (--tile)"), (("--tile=0",), "")):
        written = f"--output={tmp_path}/{len(flags)}.png"
        process = run_module(*command, written, "--steps=1", *flags)
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0
        assert err == (f"{tmp_path}/x.png: {said}\n" if said else "")
        assert Image.open(f"{tmp_path}/{len(flags)}.png").size == (200, 130)
    process = run_module(*command, f"--output={tmp_path}/2.png", "--tile=100")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2
    assert (
        err == "epsilon_vae: tile = 100: expected 0, for whole images, or a multiple of 16 pixels\n"
    )


def test_bad_files_are_named_and_the_others_reconstructed(finished_run, run_module, pictures):
    (pictures / "a" / "broken.jpg").write_bytes(b"\0\0\0\x18ftypheic")
    (pictures / "b" / "empty.png").touch()
    Image.open(pictures / "a" / "cat.png").save(pictures / "b" / "png.jpg", "PNG")
    wide = Image.new("RGB", (32, 32), (60, 170, 70))
    wide.save(pictures / "a" / "wide.png", icc_profile=rgb_profile())
    output = pictures.parent / "out"
    arguments = f"--workdir={finished_run}", str(pictures), f"--output={output}", "--steps=1"
    process = run_module("epsilon_vae.reconstruct", *arguments)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1
    bad = f"{pictures}/a/broken.jpg", f"{pictures}/b/empty.png"
    assert err.splitlines() == [
        f"Left out: {bad[0]}: not a readable image (its content is HEIC)",
        f"Left out: {bad[1]}: not a readable image (zero bytes)",
        f"epsilon_vae: 2 of 6 could not be read: {', '.join(bad)}",
    ]
    written = sorted(path.name for path in output.rglob("*.png"))
    assert written == ["cat.png", "cup.png", "png.png", "wide.png"]
    assert "mean PSNR of 4 images" in out
    assert f"{pictures}/b/png.jpg (is PNG) -> {output}/b/png.png" in out
    score = float(re.search(r"wide.png  PSNR (\S+) dB", out)[1])
    original = np.broadcast_to(np.rint(in_srgb((60, 170, 70))).astype(np.uint8), (32, 32, 3))
    found = np.asarray(Image.open(output / "a" / "wide.png"))
    assert score == pytest.approx(peak_signal_noise_ratio(original, found), abs=0.1)
    process = run_module("epsilon_vae.reconstruct", *arguments)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2
    assert (
        err
        == f"epsilon_vae: {output}/a/cat.png: exists; name another --output, or set --overwrite\n"
    )


def test_nothing_is_overwritten(pictures, tmp_path):
    inside, cat = pictures / "a", pictures / "a" / "cat.png"
    (tmp_path / "link").symlink_to(inside)
    for inputs, output in (
        ([inside], inside),
        ([inside], tmp_path / "link"),
        ([inside], f"{inside}/../a"),
        ([pictures], pictures),
        ([cat], cat),
        ([cat], inside),
        ([cat], tmp_path / "link" / "cat.png"),
    ):
        for overwrite in (False, True):
            with pytest.raises(DataError, match="is an input; name another"):
                find_pictures([str(x) for x in inputs], str(output), overwrite=overwrite)
    there = tmp_path / "out" / "cat.png"
    there.parent.mkdir()
    there.touch()
    for output in (there, there.parent):
        with pytest.raises(DataError, match="cat.png: exists; name another --output, or set"):
            find_pictures([str(cat)], str(output))
        assert find_pictures([str(cat)], str(output), overwrite=True) == [(cat, there)]


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
    for suffix in ("txt", "gif"):  # of 256 colors
        with pytest.raises(DataError, match="a picture ends in"):
            find_pictures([str(source)], f"{tmp_path}/o.{suffix}")
    (tmp_path / "v1.0").mkdir()
    assert find_pictures([str(source)], f"{tmp_path}/v1.0")[0][1] == tmp_path / "v1.0" / "cat.png"


def test_two_inputs_of_one_name_are_refused(pictures, tmp_path):
    other = pictures / "b" / "cat.png"
    Image.new("RGB", (8, 8)).save(other)
    with pytest.raises(DataError, match="would both be written to"):
        find_pictures([str(pictures / "a" / "cat.png"), str(other)], str(tmp_path / "out"))


def test_empty_folder_is_named(tmp_path):
    with pytest.raises(DataError, match="no image in it"):
        find_pictures([str(tmp_path)], str(tmp_path / "out"))
