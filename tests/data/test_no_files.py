"""What has a file's name and is none, or is too large: a bad record, never waited for."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from epsilon_vae.data.archives import find_images
from epsilon_vae.data.decode import MAX_FILE_BYTES, DataError, read_image
from epsilon_vae.data.image_set import ImageSet
from epsilon_vae.data.pipeline import BadRecords, TrainingBatches
from epsilon_vae.data.sources import open_source
from tests.data.hostile import encode, photo

PREPARE = "epsilon_vae.data.prepare"


@pytest.fixture
def no_files(tmp_path) -> dict[str, str]:
    """A folder of what has an image's name and is none, beside one image; what is said of each."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    os.mkfifo(folder / "fifo.png")
    (folder / "linked_fifo.png").symlink_to("fifo.png")
    (folder / "zeros.png").symlink_to("/dev/zero")
    (folder / "lost.png").symlink_to("nowhere")
    with (folder / "large.png").open("wb") as file:
        file.truncate(2**40)  # takes no space
    (folder / "whole.png").write_bytes(encode(photo()))
    return {
        "fifo.png": "not a regular file",
        "linked_fifo.png": "not a regular file",
        "zeros.png": "not a regular file",
        "lost.png": "[Nn]o such file",
        "large.png": f"{2**40} bytes, {MAX_FILE_BYTES} are the most",
    }


def test_what_is_no_image_file_is_a_bad_record_for_all_readers(no_files, tmp_path):
    folder = tmp_path / "pictures"
    source = open_source("folder", str(tmp_path), split="pictures")
    images = find_images(str(folder))
    assert len(source) == len(images) == 1 + len(no_files)
    for name, words in no_files.items():
        place = images.names.index(name)
        with pytest.raises(DataError, match=f"{name}: not a readable image .*{words}"):
            read_image(folder / name)
        with pytest.raises(DataError, match=f"{name}: .*{words}"):
            images.read(place)
        with pytest.raises(DataError, match=f"{name}: cannot be read .*{words}"):
            source[place]


def test_training_leaves_out_what_is_no_file(no_files, tmp_path):
    source, bad_records = open_source("folder", str(tmp_path), split="pictures"), BadRecords(0.9, 6)
    batches = TrainingBatches(
        source,
        6,
        resolution=32,
        seed=0,
        crop="random",
        flip=False,
        reduced_jpeg=True,
        bad_records=bad_records,
    )
    batch = next(batches)
    batches.close()
    assert batches.num_bad_records == len(no_files)
    assert all((image == batch["image"][0]).all() for image in batch["image"])


def test_prepare_leaves_out_what_is_no_file(no_files, run_module, tmp_path):
    arguments = str(tmp_path / "pictures"), "--split=train", f"--output={tmp_path}/out"
    process = run_module(PREPARE, *arguments)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2 and re.fullmatch(
        r"epsilon_vae: .*fifo.png: cannot be read \(not a regular file\); replace.*=skip\n", err
    )
    process = run_module(PREPARE, *arguments, "--on_bad_record=skip")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "1 images, no classes" in out and "5 left out, see train.json" in out
    assert err.count("Left out: ") == 5


@pytest.mark.parametrize("kind", ["tar", "shard", "list", "npz"])
def test_inputs_that_are_fifos_are_not_waited_for(tmp_path, kind):
    readers: dict[str, tuple[str, Callable]] = {
        "tar": ("in.tar", lambda path: find_images(str(path))),
        "shard": ("train-00000.array_record", lambda path: open_shards(path.parent)),
        "list": ("train.json", lambda path: open_shards(path.parent)),
        "npz": ("set.npz", lambda path: ImageSet(str(path))),
    }
    name, read = readers[kind]
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match=re.escape(str(tmp_path))):
        read(tmp_path / name)


def open_shards(folder: Path):
    return open_source("array_record", str(folder), split="train")
