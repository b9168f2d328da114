"""One run's newest checkpoint, damaged in many ways: every reader takes the one before, or says why.

With a warning; none ends in a traceback, and none takes what is not what was written.
"""

import json
import logging
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from epsilon_vae import checksums
from epsilon_vae.checkpoint import Checkpointer, CheckpointError
from epsilon_vae.conversion import export_weights
from epsilon_vae.inference.autoencoder import restore
from epsilon_vae.run.initialize import load_init_weights
from tests import micro
from tests.helpers import STEPS, load_state, state_shapes
from tests.processes import finish


def arrays(step: Path) -> Path:
    """The largest file of arrays."""
    return max(step.glob("state/**/d/*"), key=lambda path: path.stat().st_size)


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
FOUND_WITHOUT_CHECKSUMS = {
    "old, no state": lambda step: shutil.rmtree(step / "state"),
    "old, state is a file": lambda step: become_file(step / "state"),
    "old, no config": lambda step: shutil.rmtree(step / "config"),
    "old, no arrays": lambda step: arrays(step).unlink(),
    "old, arrays cut": lambda step: cut(arrays(step)),
    "old, metadata cut": lambda step: cut(step / "state" / "_METADATA"),
    "old, manifest empty": lambda step: cut(step / "state" / "manifest.ocdbt", 0),
    "old, config is no JSON": lambda step: cut(step / "config" / "metadata"),
    "old, config is a list": lambda step: (step / "config" / "metadata").write_text("[1]"),
    "old, model is a number": edited_config(model=5),
    "old, seed is a word": edited_config(seed="one"),
    "old, config has no model": edited_config(model={}),
}
ALL = DAMAGES | {name: without_checksums(x) for name, x in FOUND_WITHOUT_CHECKSUMS.items()}


@pytest.fixture(scope="module")
def shapes():
    return state_shapes(micro.get_config())


def read_training(workdir: Path, shapes) -> np.ndarray:
    state = Checkpointer(str(workdir), keep=2).restore_newest(shapes).state
    return state.ema["decoder"]["conv_in"]["kernel"]


def read_init_from(workdir: Path, shapes) -> np.ndarray:
    weights = load_init_weights(shapes, str(workdir), **micro.get_config().init)
    return weights["ema"]["decoder"]["conv_in"]["kernel"]


def read_restore(workdir: Path, shapes) -> np.ndarray:
    del shapes
    return restore(str(workdir)).params["decoder"]["conv_in"]["kernel"]


def read_convert(workdir: Path, shapes) -> np.ndarray:
    del shapes
    file = workdir / "weights.safetensors"
    return export_weights(str(workdir), str(file)).params["decoder"]["conv_in"]["kernel"]


READERS = (read_init_from, read_restore, read_convert, read_training)  # the last moves it aside


def damaged_copy(run: Path, folder: Path, damage: Callable[[Path], None]) -> Path:
    shutil.copytree(run / "checkpoints", folder / "checkpoints")
    damage(folder / "checkpoints" / str(STEPS))
    return folder


@pytest.mark.parametrize("name", ALL)
def test_every_reader_takes_the_step_before(name, finished_run, shapes, tmp_path, caplog):
    workdir = damaged_copy(finished_run, tmp_path, ALL[name])
    expected = load_state(finished_run, 4)["ema"]["decoder"]["conv_in"]["kernel"]
    with pytest.raises(CheckpointError) as error:
        restore(str(workdir), STEPS)
    assert re.search(r"/6: cannot be read \(.+\); steps that can be read: \[4\]$", str(error.value))
    for read in READERS:
        if name == "old, seed is a word" and read is read_init_from:
            continue  # it takes no config of the other run
        if name.startswith("old") and "config" in name + "model" and read is read_init_from:
            pass
        caplog.clear()
        try:
            got = read(workdir, shapes)
        except Exception as e:
            print("FAIL", name, read.__name__, type(e), str(e)[:300])
            continue
        if not np.array_equal(got, expected): print("OTHER", name, read.__name__)
        warnings = [x for x in caplog.records if x.levelno >= logging.WARNING]
        if len(warnings) != 1: print("WARN", name, read.__name__, [w.getMessage()[:200] for w in warnings])
        else: print('   ', name, warnings[0].getMessage()[:150])
    print(os.listdir(workdir/'checkpoints'))
