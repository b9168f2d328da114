"""Latents of a real run, by the command: what they are, kills, devices, processes, refusals."""

import copy
import json
import os
import shutil
import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import epsilon_vae
from epsilon_vae.data.decode import DataError
from epsilon_vae.data.latents import Latents
from epsilon_vae.data.named import open_data
from epsilon_vae.inference.autoencoder import Autoencoder
from epsilon_vae.inference.encoding import encode_data
from epsilon_vae.inference.restoring import restore
from epsilon_vae.parallel.batch import IMAGES_PER_DEVICE
from epsilon_vae.parallel.mesh import make_mesh
from tests.helpers import NUM_IMAGES
from tests.processes import finish, partial_path, start_together

MODULE = "epsilon_vae.encode"


@pytest.fixture(scope="module")
def autoencoder(finished_run) -> Autoencoder:
    """As the command restores it: encoded in groups, a digit may be another than one by one."""
    mesh = make_mesh(devices=jax.devices()[:1])
    return restore(str(finished_run), mesh=mesh, group_size=IMAGES_PER_DEVICE)


@pytest.fixture(scope="module")
def arguments(finished_run, images) -> tuple[str, ...]:
    return f"--workdir={finished_run}", f"--data={images}", "--records_per_shard=4"


@pytest.fixture(scope="module")
def encoded(run_module, arguments, tmp_path_factory) -> tuple[Path, str]:
    """The folder of latents encoded in one go on one device, and what was printed."""
    output = tmp_path_factory.mktemp("encoded")
    out, _ = finish(run_module(MODULE, *arguments, f"--output={output}"))
    return output, out


def encode_here(autoencoder, images, output, dtype="float16"):
    data = open_data(str(images), "train")
    crop = "center_crop_adm"
    return encode_data(
        autoencoder,
        "run",
        data=data,
        output=str(output),
        resolution=32,
        crop=crop,
        dtype=dtype,
        records_per_shard=4,
    )


def encode_files(autoencoder, files: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Latents of images and of their mirror images, float32."""
    pixels = np.stack([np.asarray(Image.open(file)) for file in files])
    return autoencoder.encode(pixels), autoencoder.encode(pixels[:, :, ::-1])


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.array_record")}


def read_index(folder: Path) -> dict:
    return json.loads((folder / "latents.json").read_text())


def assert_same_latents(folder: Path, expected: Path) -> None:
    """Files of shards to the byte, and statistics to the bit."""
    assert shards(folder) == shards(expected) and shards(expected)
    for key in ("mean", "std", "shards", "num_records", "checkpoint"):
        assert read_index(folder)[key] == read_index(expected)[key]
    assert not (folder / "latents.unfinished.json").exists()


def test_latents_are_the_autoencoders_of_images_and_mirror_images(encoded, autoencoder, images):
    output, out = encoded
    assert f"{output}: done: 64 images and their mirror images, latents of 8x8x8" in out
    latents = Latents(str(output))
    assert len(latents) == NUM_IMAGES and latents.metadata.classes == ["cat", "dog"]
    files = sorted(images.rglob("*.png"))
    plain, flipped = (z.astype(np.float16) for z in encode_files(autoencoder, files))
    assert not np.array_equal(flipped, plain[:, :, ::-1])  # else one would do
    for i, record in enumerate(latents):
        assert record.latents.dtype == np.float16
        np.testing.assert_array_equal(record.latents, plain[i])
        np.testing.assert_array_equal(record.flipped, flipped[i])
        assert record.name == str(files[i])
        assert latents.metadata.classes[record.label] == files[i].parent.name
    stored = np.stack([plain, flipped]).astype(np.float64)
    np.testing.assert_allclose(latents.metadata.mean, stored.mean((0, 1, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(latents.metadata.std, stored.std((0, 1, 2, 3)), rtol=1e-12)


def test_index_says_what_made_them(encoded, autoencoder, finished_run):
    index = read_index(encoded[0])
    provenance = {"workdir": str(finished_run), "step": 6, "weights": "ema"}
    assert provenance.items() <= index["checkpoint"].items()
    assert (index["f"], index["n_z"], index["resolution"]) == (4, 8, 32)
    assert index["config"]["model"]["encoder"]["name"] == "micro"
    assert {"jax", "git_commit", "devices"} <= index["versions"].keys()
    metadata = Latents(str(encoded[0])).metadata
    metadata.check_encoder(autoencoder.encoder_fingerprint())
    before = epsilon_vae.restore(str(finished_run), step=4)
    with pytest.raises(DataError, match=r"latents of .*, step 6 .*, but this decoder's encoder is"):
        metadata.check_encoder(before.encoder_fingerprint())


def test_killed_it_goes_on_on_two_devices_to_the_same_bytes(
    encoded, run_module, arguments, tmp_path
):
    output = f"--output={tmp_path}"
    process = run_module(MODULE, *arguments, output)
    first = tmp_path / "latents-00000.array_record"
    while not first.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    done = shards(tmp_path)
    assert 1 <= len(done) < 16 and not (tmp_path / "latents.json").exists()
    with pytest.raises(DataError, match="unfinished; run the same epsilon_vae.encode again"):
        Latents(str(tmp_path))
    written = first.stat().st_mtime_ns
    out, _ = finish(run_module(MODULE, *arguments, output, JAX_NUM_CPU_DEVICES="2"))
    assert f"{NUM_IMAGES - 4 * len(done)} images encoded" in out
    assert first.stat().st_mtime_ns == written
    assert_same_latents(tmp_path, encoded[0])
    assert read_index(tmp_path)["versions"]["devices"].startswith("2 ")


def test_two_processes_write_what_one_does(encoded, run_module, arguments, tmp_path):
    output = f"--output={tmp_path}"
    outs = [finish(p)[0] for p in start_together(run_module, *arguments, output, module=MODULE)]
    assert "done: 64 images" in outs[0] and "done" not in outs[1]
    assert_same_latents(tmp_path, encoded[0])


def test_processes_that_differ_are_refused(run_module, arguments, tmp_path):
    """Each with a folder of its own, and with flags of its own."""
    output = f"--output={tmp_path}/x"
    each = {
        "not the same folder for all processes; it must be on a disk": f"--output={tmp_path}/{{}}",
        "not the same flags, data or checkpoint": "--records_per_shard=1{}",
    }
    for words, flag in each.items():
        flags = [flag.format(index) for index in range(2)]
        processes = start_together(
            run_module,
            *arguments,
            output,
            each=lambda i, flags=flags: flags[i : i + 1],
            module=MODULE,
        )
        for process in processes:
            _, err = process.communicate(timeout=300)
            assert process.returncode == 2 and words in err, err


def test_again_over_finished_latents_writes_what_is_missing(encoded, autoencoder, images, tmp_path):
    shutil.copytree(encoded[0], tmp_path / "copy")
    index, num_encoded = encode_here(autoencoder, images, tmp_path / "copy")
    assert num_encoded == 0 and index == read_index(encoded[0])
    (tmp_path / "copy" / "latents-00003.array_record").unlink()
    (tmp_path / "copy" / "latents-00015.array_record").write_bytes(b"short")
    with pytest.raises(DataError, match=r"latents-000.*no records can be read, 4 are listed"):
        Latents(str(tmp_path / "copy"))
    assert encode_here(autoencoder, images, tmp_path / "copy")[1] == 8
    assert shards(tmp_path / "copy") == shards(encoded[0])


def test_bfloat16(autoencoder, images, tmp_path):
    encode_here(autoencoder, images, tmp_path, "bfloat16")
    files = sorted(images.rglob("*.png"))
    for record, *expected in zip(
        Latents(str(tmp_path)), *encode_files(autoencoder, files), strict=True
    ):
        for found, z in zip(record[:2], expected, strict=True):
            assert found.dtype == jax.numpy.bfloat16
            np.testing.assert_array_equal(found, z.astype(jax.numpy.bfloat16))


def test_factors_of_the_autoencoder_stand_for_mean_and_deviation(
    autoencoder, images, tmp_path, monkeypatch
):
    """What its diffusion models take is (latents - shift) * scale."""
    config = copy.deepcopy(autoencoder.config)
    config.model.bottleneck.scaling_factor = 1.5305
    config.model.bottleneck.shift_factor = 0.0609
    monkeypatch.setattr(autoencoder, "config", config)
    encode_here(autoencoder, images, tmp_path)
    metadata = Latents(str(tmp_path)).metadata
    latents = np.arange(3 * metadata.shape[-1], dtype=np.float32).reshape(3, -1)
    expected = (latents - 0.0609) * 1.5305
    np.testing.assert_allclose(metadata.normalization.normalize(latents), expected, rtol=1e-6)


def test_latents_beyond_float16_are_refused(autoencoder, images, tmp_path):
    params = jax.tree.map(lambda x: x, autoencoder.params)
    conv = params["encoder"]["conv_out"]
    conv["kernel"] = conv["kernel"] * 1e8
    wild = Autoencoder(
        autoencoder.networks,
        autoencoder.process,
        spacing=autoencoder.spacing,
        params=params,
        config=autoencoder.config,
        step=6,
    )
    with pytest.raises(DataError, match=r"00.png: latents that float16 .*; bfloat16 holds larger"):
        encode_here(wild, images, tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_bad_input_is_one_line_and_finished_shards_stay(
    encoded, run_module, arguments, finished_run, autoencoder, images, tmp_path
):
    full, other, empty = (tmp_path / name for name in ("full", "other", "empty"))
    full.mkdir()
    empty.mkdir()
    shutil.copytree(encoded[0], other)
    before = {path: path.stat().st_mtime_ns for path in other.iterdir()}
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "train-00000.array_record").touch()
    run = f"--workdir={finished_run}"
    commands = {
        "00002.array_record: cannot be written (write() failed: No space left": (
            *arguments,
            f"--output={full}",
        ),
        "step 6; name that one, with --checkpoint_step, or another --output": (
            *arguments,
            f"--output={other}",
            "--checkpoint_step=4",
        ),
        "started with dtype = 'float16', now it is 'bfloat16'; name another --output": (
            *arguments,
            f"--output={other}",
            "--dtype=bfloat16",
        ),
        "has shards, but no latents.json": (*arguments, f"--output={foreign}"),
        "take multiples of": (*arguments, "--resolution=33", f"--output={empty}"),
        "no checkpoints in it": (*arguments, f"--workdir={empty}", f"--output={empty}"),
        "no such folder": (run, f"--data={empty}/x", f"--output={empty}"),
        "--data is missing": (run, f"--output={empty}"),
        "gcloud storage cp": (*arguments, "--output=gs://bucket/x"),
    }
    processes = {}
    for words, command in commands.items():
        processes[words] = run_module(MODULE, *command)
        if "No space left" in words:  # at once, before it comes to that shard: the kernel's ENOSPC
            shard = full / "latents-00002.array_record"
            partial_path(shard, processes[words].pid).symlink_to("/dev/full")
    for words, process in processes.items():
        out, err = process.communicate(timeout=300)
        assert (process.returncode, out) == (2, ""), (words, err)
        [line] = err.strip().splitlines()
        assert line.startswith("epsilon_vae: ") and words in line, line
    assert {path: path.stat().st_mtime_ns for path in other.iterdir()} == before
    assert len(shards(full)) == 2 and not any(empty.iterdir())
    encode_here(autoencoder, images, full)
    assert shards(full) == shards(encoded[0])
