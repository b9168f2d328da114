"""The table of runs."""

import json
import os
import shutil
import socket
import time

import pytest

from tests.helpers import STEPS
from tests.processes import finish


def table(run_module, *folders) -> dict[str, list[str]]:
    """The cells of the printed table by run; two spaces or more are between them."""
    out, err = finish(run_module("epsilon_vae.runs", *map(str, folders)))
    assert not err
    head, *lines = (
        [cell.strip() for cell in line.split("  ") if cell] for line in out.splitlines()
    )
    assert head == ["run", "config", "step", "state", "best", "size"]
    return {cells[0]: cells[1:] for cells in lines}


def copy(run, folder, *, num_steps: int = STEPS, **heartbeat) -> None:
    """A run's folder with another heartbeat, and a config that asks for so many steps."""
    folder.mkdir(parents=True)
    for name in ("config.json", "heartbeat.json", "metrics.csv", "versions.json"):
        shutil.copy(run / name, folder)
    for path, values in (
        ("config.json", {"num_steps": num_steps}),
        ("heartbeat.json", heartbeat),
    ):
        content = json.loads((folder / path).read_text()) | values
        (folder / path).write_text(json.dumps(content))
    (folder / "checkpoints" / str(STEPS)).mkdir(parents=True)


def test_states_of_runs_at_any_depth(finished_run, run_module, tmp_path):
    now, alive = time.time(), {"training": True, "ended": None}
    copy(finished_run, tmp_path / "done")
    copy(finished_run, tmp_path / "more", num_steps=99, ended="done")
    copy(finished_run, tmp_path / "study" / "runs" / "a b", num_steps=99, ended="preempted")
    copy(finished_run, tmp_path / "bad", num_steps=99, ended="failed")
    alive |= {"alive_unix_seconds": now + 60, "process": os.getpid(), "host": socket.gethostname()}
    copy(finished_run, tmp_path / "on", num_steps=99, **alive)
    copy(finished_run, tmp_path / "killed", num_steps=99, **alive | {"process": 2**22 + 1})
    elsewhere = alive | {"host": "elsewhere", "process": 2**22 + 1}
    copy(finished_run, tmp_path / "far", num_steps=99, **elsewhere)
    silent = elsewhere | {"alive_unix_seconds": now - 99}
    copy(finished_run, tmp_path / "silent", num_steps=99, **silent)
    (tmp_path / "loop").symlink_to(tmp_path)
    rows = table(run_module, tmp_path)
    assert {name: cells[2] for name, cells in rows.items()} == {
        "bad": "failed",
        "done": "done",
        "far": "running",
        "killed": "failed",
        "more": "done",
        "on": "running",
        "silent": "failed",
        "study/runs/a b": "preempted",
    }
    assert [*rows] == sorted(rows) and rows["on"][:2] == ["micro", f"{STEPS}/99"]
    assert rows["on"][3].startswith("PSNR (dB) ") and rows["on"][3].endswith(f" at {STEPS}")
    assert all(cells[4].endswith(" MiB") for cells in rows.values())


def test_runs_of_earlier_versions_and_broken_files(finished_run, run_module, tmp_path):
    """A broken or missing file leaves a cell empty; the decoder stands for the config."""
    copy(finished_run, tmp_path / "old", num_steps=99, ended=None)
    (tmp_path / "old" / "versions.json").write_text('{"jax": "0.4"}')
    copy(finished_run, tmp_path / "new")
    (tmp_path / "new" / "heartbeat.json").write_text("[1]")
    (tmp_path / "new" / "metrics.csv").unlink()
    copy(finished_run, tmp_path / "broken")
    (tmp_path / "broken" / "config.json").write_bytes(b"{\xff")
    rows = table(run_module, tmp_path)
    assert rows["old"][:3] == ["adm-micro", f"{STEPS}/99", "stopped"]
    assert rows["new"][:4] == ["micro", f"{STEPS}/{STEPS}", "done", "–"]
    assert rows["broken"][1:3] == [f"{STEPS}/–", "done"]


def test_a_run_itself_is_a_table_of_one(finished_run, run_module):
    ((name, cells),) = table(run_module, finished_run).items()
    assert name == finished_run.name and cells[:3] == ["micro", f"{STEPS}/{STEPS}", "done"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "name a folder of runs"),
        (("nowhere",), "nowhere: no such folder"),
        (("README.md",), "README.md: no such folder"),
        (("configs",), "configs: no run in it"),
    ],
)
def test_folder_without_runs_is_refused(run_module, arguments, words):
    process = run_module("epsilon_vae.runs", *arguments)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 2 and not out
    assert err.startswith(f"epsilon_vae: {words}") and len(err.splitlines()) == 1
