"""Files and folders that are complete or not there: kills, full disks, several writers, plans."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from etils import epath

from epsilon_vae.output import OutputError, replacing, write_whole
from epsilon_vae.resumable import PlanError, ResumableFolder
from tests.processes import ROOT, partial_path

WRITE = """
import pathlib, sys
from epsilon_vae.output import replacing
with replacing(pathlib.Path(sys.argv[1])) as partial:
    if sys.argv[2] == "folder":
        partial.mkdir()
        (partial / "a").write_text("new")
    else:
        partial.write_text("new")
    print("written", flush=True)
    input()
"""


def start_writing(path: Path, kind: str = "file") -> subprocess.Popen:
    """A process that has written all of it, and waits for a line before the renaming."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITE, str(path), kind],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "written\n"
    return process


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_killed_before_the_renaming_it_is_not_there_and_the_next_clears_up(tmp_path, kind):
    path = tmp_path / "new" / "x"
    process = start_writing(path, kind)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [p.name for p in path.parent.iterdir()] == [partial_path(path, process.pid).name]
    process = start_writing(path, kind)
    assert [p.name for p in path.parent.iterdir()] == [partial_path(path, process.pid).name]
    process.communicate("\n")
    assert process.returncode == 0 and [*path.parent.iterdir()] == [path]
    assert (path / "a" if kind == "folder" else path).read_text() == "new"


def test_two_processes_write_the_same_file(tmp_path):
    path, other = tmp_path / "x.json", tmp_path / "x"
    processes = [start_writing(path) for _ in range(2)]
    write_whole(other, b"")  # whose name is the beginning of the other's
    assert not path.exists()
    for process in processes:
        process.communicate("\n")
        assert process.returncode == 0 and path.read_text() == "new"
    assert {*tmp_path.iterdir()} == {path, other}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_keeps_the_old_file(tmp_path):
    path = tmp_path / "x"
    write_whole(path, b"old")
    partial_path(path, os.getpid()).symlink_to("/dev/full")
    with pytest.raises(OutputError, match=r"/x: cannot be written \(No space left on device\); "):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old" and [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_other_errors_pass_and_nothing_is_left(tmp_path, error):
    folder = partial_path(tmp_path / "x", os.getpid())
    folder.mkdir()  # of a process that was killed and had this one's number
    (folder / "old").touch()
    with pytest.raises(error), replacing(tmp_path / "x") as partial:
        partial.mkdir()
        raise error
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["y" * 255, "ü" * 127, "\udcff" * 255])
def test_a_name_as_long_as_file_systems_take_it(tmp_path, name):
    for content in (b"one", b"two"):
        write_whole(tmp_path / name, content)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"two"]
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_path_of_epath(tmp_path):
    write_whole(epath.Path(tmp_path) / "x", b"one")
    write_whole(epath.Path(tmp_path) / "x", b"two")
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"two"]


def job(folder: Path, **plan) -> ResumableFolder:
    names = {"finished": "a.json", "unfinished": "a.unfinished.json"}
    return ResumableFolder(folder, **names, plan=plan, within="plan")


def test_the_same_plan_is_resumed_and_the_first_difference_of_another_named(tmp_path):
    folder = tmp_path / "new"
    plan = {"seed": 0, "sizes": (1, 2)}
    assert job(folder, **plan).start({"plan": plan, "rest": 1}) is False
    assert job(folder, **plan).start({"plan": plan, "rest": 2}) is False
    assert job(folder, **plan).read()["rest"] == 1
    job(folder, **plan).finish({"plan": plan, "rest": 3})
    assert job(folder, **plan).start({}) and [p.name for p in folder.iterdir()] == ["a.json"]
    other = job(folder, seed=1, sizes=(1, 3))
    with pytest.raises(PlanError, match="a.json: was started with seed = 0, now it is 1$"):
        other.start({})
    job(folder, **plan).save({"plan": plan})
    assert not job(folder, **plan).start({})
    assert [p.name for p in folder.iterdir()] == ["a.unfinished.json"]


def test_what_cannot_be_begun_is_named(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"seed": 0}))
    with pytest.raises(PlanError, match="a.json: not written by epsilon_vae .*'plan'"):
        job(tmp_path, seed=0).start({})
    with pytest.raises(OutputError, match=r"cannot be written \(File exists\)"):
        job(tmp_path / "a.json", seed=0).start({})

    def refuse(content):
        raise PlanError(f"has {content}")

    with pytest.raises(PlanError, match="has {}"):
        job(tmp_path / "b", seed=0).start({}, check=refuse)
    assert not (tmp_path / "b").exists()
