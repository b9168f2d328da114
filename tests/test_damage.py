"""One run's newest checkpoint, damaged in many ways: readers take the one before, or say why.

With a warning; none ends in a traceback, and none takes what is not what was written.
"""

import json
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from epsilon_vae import checksums
from epsilon_vae.checkpoint import Checkpointer, CheckpointError
from epsilon_vae.conversion import export_weights
from epsilon_vae.inference.restoring import restore
from epsilon_vae.run.initialize import load_init_weights
from tests import micro
from tests.helpers import STEPS, load_state, state_shapes
from tests.processes import finish


def arrays(step: Path) -> Path:
    """The largest file of arrays; which of them it holds is chance."""
    return max(step.glob("state/**/d/*"), key=lambda path: path.stat().st_size)


def damage_all_arrays(step: Path, damage: Callable[[Path], None]) -> None:
    for file in step.glob("state/**/d/*"):
        damage(file)


def flip(path: Path, place: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 4
    path.write_bytes(content)


def cut(path: Path, share: float = 0.5) -> None:
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def become_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("no folder")


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def become_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def link_to_nothing(file: Path) -> None:
    file.unlink()
    file.symlink_to("nothing")


def zero(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


def without_checksums(damage: Callable[[Path], None]) -> Callable[[Path], None]:
    """As a checkpoint of a version that wrote none."""

    def apply(step: Path) -> None:
        (step / checksums.NAME).unlink()
        metadata = step / "_CHECKPOINT_METADATA"
        metadata.write_text(metadata.read_text().replace(checksums.NAME, ""))
        damage(step)

    return apply


def edited_config(**changes: object) -> Callable[[Path], None]:
    def apply(step: Path) -> None:
        file = step / "config" / "metadata"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return apply


DAMAGES = {
    "empty folder": empty,
    "a file": become_file,
    "no state": lambda step: shutil.rmtree(step / "state"),
    "no config": lambda step: shutil.rmtree(step / "config"),
    "no data": lambda step: shutil.rmtree(step / "data"),
    "state is a file": lambda step: become_file(step / "state"),
    "state is empty": lambda step: empty(step / "state"),
    "no arrays": lambda step: arrays(step).unlink(),
    "arrays cut": lambda step: cut(arrays(step)),
    "arrays empty": lambda step: cut(arrays(step), 0),
    "arrays zeros": lambda step: zero(arrays(step)),
    "bit of the arrays": lambda step: flip(arrays(step)),
    "last bit of the arrays": lambda step: flip(arrays(step), 0.99999),
    "arrays are a folder": lambda step: become_folder(arrays(step)),
    "arrays are a link to nothing": lambda step: link_to_nothing(arrays(step)),
    "metadata cut": lambda step: cut(step / "state" / "_METADATA"),
    "metadata empty": lambda step: cut(step / "state" / "_METADATA", 0),
    "bit of the manifest": lambda step: flip(step / "state" / "manifest.ocdbt"),
    "config of wrong types": edited_config(model=5),
    "bit of the config": lambda step: flip(step / "config" / "metadata"),
    "no checksums": lambda step: (step / checksums.NAME).unlink(),
    "checksums cut": lambda step: cut(step / checksums.NAME),
    "checksums a list": lambda step: (step / checksums.NAME).write_text("[1]"),
    "bit of the checksums": lambda step: flip(step / checksums.NAME),
}
# Of checkpoints of a version that wrote no checksums: what reading itself finds.
OLD_DAMAGES = {
    "no state": lambda step: shutil.rmtree(step / "state"),
    "no arrays": lambda step: damage_all_arrays(step, Path.unlink),
    "arrays empty": lambda step: damage_all_arrays(step, lambda file: cut(file, 0)),
    "metadata cut": lambda step: cut(step / "state" / "_METADATA"),
    "config is no JSON": lambda step: cut(step / "config" / "metadata"),
    "config is a list": lambda step: (step / "config" / "metadata").write_text("[1]"),
    "model is a number": edited_config(model=5),
    "seed is a word": edited_config(seed="one"),
    "config has no model": edited_config(model={}),
}


@pytest.fixture(scope="module")
def shapes():
    return state_shapes(micro.get_config())


@pytest.fixture(scope="module")
def kernel_before(finished_run) -> np.ndarray:
    return load_state(finished_run, 4)["ema"]["decoder"]["conv_in"]["kernel"]


def read_training(workdir: Path, shapes) -> np.ndarray:
    state = Checkpointer(str(workdir), keep=2).restore_newest(shapes).state
    return state.ema["decoder"]["conv_in"]["kernel"]


def read_init_from(workdir: Path, shapes) -> np.ndarray:
    weights = load_init_weights(shapes, str(workdir), **micro.get_config().init)
    return weights["ema"]["decoder"]["conv_in"]["kernel"]


def read_restore(workdir: Path, shapes) -> np.ndarray:
    """As `reconstruct`, `evaluate` and `encode`, too."""
    del shapes
    return restore(str(workdir)).params["decoder"]["conv_in"]["kernel"]


def read_convert(workdir: Path, shapes) -> np.ndarray:
    del shapes
    file = workdir / "weights.safetensors"
    return export_weights(str(workdir), str(file)).params["decoder"]["conv_in"]["kernel"]


READERS = (read_init_from, read_restore, read_convert, read_training)
# All of each would take a minute: they are one function, and each damage is shown to one in turn.
CASES = [(name, READERS[i % 4]) for i, name in enumerate(DAMAGES)]
CASES += [("bit of the arrays", read) for read in READERS[:-1]]


def damaged_copy(run: Path, folder: Path, damage: Callable[[Path], None]) -> Path:
    shutil.copytree(run / "checkpoints", folder / "checkpoints")
    damage(folder / "checkpoints" / str(STEPS))
    return folder


def warnings(caplog) -> list[str]:
    """What commands show: they leave out what Orbax and asyncio say."""
    records = (x for x in caplog.records if x.levelno >= logging.WARNING)
    others = (x for x in records if x.name != "asyncio" and "orbax" not in x.pathname)
    return [record.getMessage() for record in others]


@pytest.mark.parametrize(("name", "read"), CASES)
def test_reader_takes_the_step_before(
    name, read, finished_run, kernel_before, shapes, tmp_path, caplog
):
    workdir = damaged_copy(finished_run, tmp_path, DAMAGES[name])
    np.testing.assert_array_equal(read(workdir, shapes), kernel_before)
    (warning,) = warnings(caplog)
    assert warning.startswith("Checkpoint 6 is damaged and left out, for 4: ")
    assert "\n" not in warning and len(warning) < 400
    is_aside = (workdir / "checkpoints" / "damaged" / "6-0").exists()
    assert is_aside == (read is read_training)  # the others change nothing


@pytest.mark.parametrize("name", OLD_DAMAGES)
def test_what_has_no_checksums_is_read_or_left_out(
    name, finished_run, kernel_before, shapes, tmp_path, caplog
):
    workdir = damaged_copy(finished_run, tmp_path, without_checksums(OLD_DAMAGES[name]))
    np.testing.assert_array_equal(read_restore(workdir, shapes), kernel_before)
    assert len(warnings(caplog)) == 1


@pytest.mark.parametrize("content", ["[1]", '{"position": "one"}', "5"])
def test_position_that_is_none_is_not_resumed_from(content, finished_run, shapes, tmp_path):
    damage = without_checksums(lambda step: (step / "data" / "metadata").write_text(content))
    workdir = damaged_copy(finished_run, tmp_path, damage)
    assert Checkpointer(str(workdir), keep=2).restore_newest(shapes).step == 4


def test_whole_checkpoint_of_an_earlier_version_is_read_without_a_word(
    finished_run, shapes, tmp_path, caplog
):
    workdir = damaged_copy(finished_run, tmp_path, without_checksums(lambda step: None))
    assert restore(str(workdir)).step == STEPS
    assert Checkpointer(str(workdir), keep=2).restore_newest(shapes).step == STEPS
    assert warnings(caplog) == []


@pytest.mark.parametrize("name", ["no state", "bit of the arrays"])
def test_step_that_is_asked_for_is_never_another(name, finished_run, tmp_path):
    workdir = damaged_copy(finished_run, tmp_path, DAMAGES[name])
    with pytest.raises(CheckpointError) as error:
        restore(str(workdir), STEPS)
    message = str(error.value)
    assert re.search(r"/6: cannot be read \(.+\); steps that can be read: \[4\]$", message)
    assert "\n" not in message


def test_damaged_that_is_a_file_is_no_place(finished_run, kernel_before, shapes, tmp_path):
    workdir = damaged_copy(finished_run, tmp_path, DAMAGES["bit of the arrays"])
    (workdir / "checkpoints" / "damaged").write_text("mine")
    np.testing.assert_array_equal(read_training(workdir, shapes), kernel_before)
    assert (workdir / "checkpoints" / "damaged").read_text() == "mine"
    assert (workdir / "checkpoints" / "damaged-1" / "6-0").is_dir()


@pytest.mark.parametrize("old", [False, True])
def test_command_says_it_in_one_line(old, finished_run, images, run_module, tmp_path):
    """Even where Orbax and asyncio have hundreds of lines to say of arrays that are gone."""
    damage = OLD_DAMAGES["no arrays"]
    workdir = damaged_copy(finished_run, tmp_path, without_checksums(damage) if old else damage)
    arguments = (f"--workdir={workdir}", images / "cat" / "00.png", f"--output={tmp_path / 'out'}")
    _, err = finish(run_module("epsilon_vae.reconstruct", *arguments))
    assert len(err.splitlines()) == 1 and "Checkpoint 6 is damaged and left out, for 4" in err
    arguments += ("--overwrite",)
    process = run_module("epsilon_vae.reconstruct", *arguments, "--checkpoint_step=6")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2 and len(err.splitlines()) == 1
    assert "steps that can be read: [4]" in err
