"""The evaluation of a real run, by the command: numbers, report, comparison, kill and resume."""

import base64
import csv
import io
import json
import os
import re
import signal
import time

import numpy as np
import pytest
from PIL import Image

import epsilon_vae
from epsilon_vae.data.transforms import to_uint8
from epsilon_vae.metrics.psnr_ssim import psnr
from tests.helpers import training_images
from tests.processes import finish, start_together

PROTOCOL = "--protocol=local,features=alexnet"
MODULE = "epsilon_vae.evaluate"


def read(folder) -> dict:
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def evaluated(run_module, finished_run, tmp_path_factory):
    """Folder of an evaluation at NFE 1 and 3, all pictures saved, and what it printed."""
    workdir = finished_run
    output = tmp_path_factory.mktemp("evaluated")
    arguments = f"--workdir={workdir}", PROTOCOL, f"--output={output}", "--save_images"
    out, _ = finish(run_module(MODULE, *arguments))
    return output, out


def test_numbers_carry_their_protocol(evaluated, finished_run):
    output, out = evaluated
    results = read(output)
    assert results["protocol"]["name"] == "local,features=alexnet"
    assert results["data"]["num_images"] == 3
    assert {"git_commit", "jax", "devices"} <= results["versions"].keys()
    [reconstructor] = results["reconstructors"]
    assert (reconstructor["kind"], reconstructor["step"], reconstructor["spacing"]) == (
        "run",
        6,
        "reversed_log",
    )
    assert [(row["resolution"], row["nfe"]) for row in results["rows"]] == [(32, 1), (32, 3)]
    for row in results["rows"]:
        assert "256 features of 3 images, which are too few" in row["notes"][0]
        assert row["fd_alexnet"] > 0 and row["decode_seconds"] > 0
        assert -1 < row["ssim"] < row["ssim_range2"] < 1
    table = (output / "results.md").read_text()
    assert " [1] | " in table and "- [1] FD AlexNet is over 256" in table
    psnr_line = next(line for line in out.splitlines() if line.startswith("PSNR (dB) ↑  "))
    assert psnr_line.split()[3:] == [f"{row['psnr']:.2f}" for row in results["rows"]]
    assert "|" not in out and "[1] FD AlexNet is over 256" in out
    assert not (output / "unfinished").exists()


def test_numbers_are_those_of_the_restored_model(evaluated, finished_run):
    output, _ = evaluated
    images = output / "images" / "32"
    files = sorted((images / "originals").iterdir())
    originals = np.stack([np.asarray(Image.open(file)) for file in files])
    group_size = read(output)["protocol"]["group_size"]
    vae = epsilon_vae.restore(str(finished_run), group_size=group_size)
    pictures = vae.reconstruct(originals, steps=3)
    name = read(output)["reconstructors"][0]["name"]
    for file, picture in zip(files, pictures, strict=True):
        saved = np.asarray(Image.open(images / f"{name}-nfe3" / file.name))
        np.testing.assert_array_equal(saved, picture)
    expected = np.mean(np.asarray(psnr(originals / 255.0, pictures / 255.0)))
    assert read(output)["rows"][1]["psnr"] == pytest.approx(expected, abs=1e-4)
    with (output / "per_image_32.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["nfe"] == "3"]
    assert np.mean([float(row["psnr"]) for row in rows]) == pytest.approx(expected, abs=1e-4)


def test_groups_are_one_by_one_up_to_rounding(evaluated, finished_run, run_module, tmp_path):
    """And one by one is what it always was: to the bit what the model gives for one image."""
    arguments = f"--workdir={finished_run}", f"{PROTOCOL},group_size=1", "--steps=3"
    finish(run_module(MODULE, *arguments, f"--output={tmp_path}", "--save_images"))
    [in_groups], [alone] = (
        [row for row in read(folder)["rows"] if row["nfe"] == 3]
        for folder in (evaluated[0], tmp_path)
    )
    assert read(tmp_path)["protocol"]["group_size"] == 1
    for name in ("psnr", "ssim", "ssim_range2", "lpips_alexnet", "lpips_vgg16", "fd_alexnet"):
        assert in_groups[name] == pytest.approx(alone[name], rel=1e-4)
    vae = epsilon_vae.restore(str(finished_run))
    for folder in (tmp_path / "images" / "32").glob("*-nfe3"):
        for file in folder.iterdir():
            original = np.asarray(Image.open(folder.parent / "originals" / file.name))
            np.testing.assert_array_equal(np.asarray(Image.open(file)), vae.reconstruct(original))
    grouped = epsilon_vae.restore(str(finished_run), group_size=8)
    images = training_images(8, 32)
    latents = vae.encode(images)
    np.testing.assert_allclose(grouped.encode(images), latents, rtol=0, atol=1e-5)
    np.testing.assert_allclose(grouped.decode(latents), vae.decode(latents), rtol=0, atol=1e-5)


def test_training_evaluates_by_the_same_code(evaluated, finished_run):
    with (finished_run / "metrics.csv").open(newline="") as file:
        last = list(csv.DictReader(file))[-1]
    row = read(evaluated[0])["rows"][1]
    for name in ("psnr", "ssim", "ssim_range2", "lpips_alexnet"):
        assert float(last[f"eval/{name}"]) == pytest.approx(row[name], rel=1e-5)


def test_report_and_plots(evaluated):
    output, _ = evaluated
    html = (output / "report.html").read_text()
    assert "astronaut" in html and "data:image/webp;base64," in html
    assert "http://" not in html.replace("http://www.w3.org", "")
    assert {path.name for path in (output / "plots").iterdir()} == {
        "fd_alexnet_over_nfe.png",
        "psnr_over_lpips.png",
        "quality_over_decode_time.png",
    }


def test_compare_puts_a_run_and_its_own_pictures_side_by_side(
    evaluated, run_module, finished_run, tmp_path
):
    output, _ = evaluated
    folder = output / "images" / "32" / f"{finished_run.name}-nfe1"
    arguments = "--compare", str(finished_run), str(folder), "--steps=1", PROTOCOL
    finish(run_module(MODULE, *arguments, f"--output={tmp_path}"))
    run, pictures = read(tmp_path)["rows"]
    assert (run["nfe"], pictures["nfe"]) == (1, None)
    assert run["decode_seconds"] > 0 and pictures["decode_seconds"] is None
    for name in ("psnr", "ssim", "lpips_vgg16", "lpips_alexnet", "fd_alexnet"):
        assert run[name] == pictures[name] == read(output)["rows"][0][name]


def test_two_processes_give_the_numbers_of_one(evaluated, run_module, finished_run, tmp_path):
    arguments = f"--workdir={finished_run}", PROTOCOL, f"--output={tmp_path}"
    for process in start_together(run_module, *arguments, module=MODULE):
        finish(process)
    for one, two in zip(read(evaluated[0])["rows"], read(tmp_path)["rows"], strict=True):
        for name in ("psnr", "ssim", "lpips_vgg16", "lpips_alexnet", "fd_alexnet"):
            assert two[name] == pytest.approx(one[name], rel=1e-6)
    assert (tmp_path / "report.html").exists()


def test_killed_between_resolutions_it_goes_on(run_module, finished_run, tmp_path):
    workdir = finished_run
    arguments = f"--workdir={workdir}", PROTOCOL, "--steps=1", f"--output={tmp_path}"
    process = run_module(MODULE, *arguments, "--resolutions=32,64")
    first = tmp_path / "per_image_32.csv"
    while not first.exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    [progress] = (tmp_path / "unfinished").iterdir()
    written, seen = progress.stat().st_mtime_ns, set()
    again = run_module(MODULE, *arguments, "--resolutions=32,64")
    while not (tmp_path / "per_image_64.csv").exists():
        assert again.poll() is None, again.stderr.read()
        assert progress.stat().st_mtime_ns == written
        seen |= {*progress.parent.glob("[!.]*")}
        time.sleep(0.1)
    finish(again)
    assert [row["resolution"] for row in read(tmp_path)["rows"]] == [32, 64]
    assert len(seen) <= 2, "32 px was started anew"


def test_samples_equal_to_their_reference(run_module, tmp_path):
    """A folder as ADM's `.npz` has it: no distance, and all is covered."""
    images = to_uint8(training_images(24, 32))
    (tmp_path / "samples").mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "samples" / f"{index:02d}.png")
    np.savez(tmp_path / "reference.npz", arr_0=images)
    sets = f"--samples={tmp_path}/samples", f"--reference={tmp_path}/reference.npz"
    output = tmp_path / "out"
    out, _ = finish(run_module(MODULE, *sets, PROTOCOL, f"--output={output}"))
    [row] = read(output)["rows"]
    assert row["fd_alexnet"] == pytest.approx(0, abs=1e-6)
    assert (row["precision_alexnet"], row["recall_alexnet"]) == (1, 1)
    assert (row["num_images"], row["num_reference_images"]) == (24, 24)
    assert (
        "| Samples | Images | Reference images | FD AlexNet ↓ |"
        in (output / "results.md").read_text()
    )
    lines = out.splitlines()
    assert lines[-1] == f"{output}/report.html" and "|" not in out
    assert [line.split() for line in lines if line.startswith(("Images", "Recall"))] == [
        ["Images", "24"],
        ["Recall", "AlexNet", "↑", "1.000"],
    ]
    html = (output / "report.html").read_text()
    assert html.count("data:image/webp;base64,") == 2 * 24 and "://" not in html
    assert (
        row["notes"][0].replace("fd_alexnet", "FD AlexNet") in html
        and "local,features=alexnet" in html
    )
    shown = re.findall('src="data:image/webp;base64,(.*?)".*alt="Samples', html)
    for image, webp in zip(images, shown, strict=True):
        np.testing.assert_array_equal(Image.open(io.BytesIO(base64.b64decode(webp))), image)


SAMPLES = "--samples={pictures}", "--reference={pictures}"
BAD_INPUTS = {
    "--workdir is missing": ("--output={out}",),
    "--output is missing": ("--workdir=runs/none",),
    "no checkpoints in it": ("--workdir={empty}", "--output={out}"),
    "{empty}: no image in it": ("--workdir={run}", "--data={empty}", "--output={out}"),
    "{empty}/x: no such folder": ("--workdir={run}", "--data={empty}/x", "--output={out}"),
    "not a readable image": ("--workdir={run}", "--data={broken}", "--output={out}"),
    "a.png: cannot be read (not a regular file)": (
        "--workdir={run}",
        "--data={fifo}",
        "--output={out}",
    ),
    "take multiples of": ("--workdir={run}", "--resolutions=33", "--output={out}"),
    "--resolutions=a: expected": ("--workdir={run}", "--resolutions=a", "--output={out}"),
    "no weights of inception here": ("--workdir={run}", "--protocol=paper", "--output={out}"),
    "--resolutions= is empty": ("--workdir={run}", "--resolutions=", "--output={out}"),
    "--steps=1,01: one of them twice": ("--workdir={run}", "--steps=1,01", "--output={out}"),
    "--data: not with --samples": (*SAMPLES, "--data=photos", "--output={out}"),
    "seed=1 says nothing": (*SAMPLES, f"{PROTOCOL},seed=1", "--output={out}"),
    "{pictures}: 3 images are too few, 10 the least": (*SAMPLES, "--output={out}"),
    "{three}: 3 images are too few, 4 the least": (
        "--samples={ten}",
        "--reference={three}",
        "--output={out}",
    ),
    "{empty}: no image in it; ": ("--samples={ten}", "--reference={empty}", "--output={out}"),
    "no picture for": ("--compare", "{run}", "{pictures}", "--output={out}"),
    "{one}: only 1 of 3 pictures": ("--compare", "{run}", "{one}", "--output={out}"),
    "resolution 16: LPIPS": ("--workdir={run}", "--resolutions=16", "--output={out}"),
    "--data and --resolutions are missing": ("--compare", "{pictures}", "--output={out}"),
}


def test_bad_input_is_one_line(run_module, finished_run, tmp_path):
    places = {
        name: tmp_path / name for name in ("empty", "broken", "fifo", "pictures", "out", "cache")
    }
    for place in places.values():
        place.mkdir()
    (places["broken"] / "a.png").write_bytes(b"no picture")
    os.mkfifo(places["fifo"] / "a.png")
    places["one"] = places["pictures"] / "one"
    places["one"].mkdir()
    for name in ("one/other.png", "others.png", "another.png"):
        Image.new("RGB", (32, 32)).save(places["pictures"] / name)
    places["run"] = finished_run
    for name, count in (("three", 3), ("ten", 10)):
        places[name] = tmp_path / f"{name}.npz"
        np.savez(places[name], arr_0=np.zeros((count, 32, 32, 3), np.uint8))
    processes = {}
    for words, arguments in BAD_INPUTS.items():
        arguments = [argument.format(**places) for argument in (PROTOCOL, *arguments)]
        cache = {"EPSILON_VAE_CACHE": str(places["cache"])}
        processes[words] = run_module(MODULE, *arguments, **cache)
    for words, process in processes.items():
        out, err = process.communicate(timeout=300)
        assert (process.returncode, out) == (2, ""), (words, err)
        [line] = err.strip().splitlines()
        assert words.format(**places) in line
