"""The lock of a run's folder: held, freed, and told by the time where no lock says so."""

import json
import signal
import subprocess
import sys
import threading
import time

import pytest
from etils import epath

from epsilon_vae.run import workdir
from epsilon_vae.run.workdir import Heartbeat, TakenError, WorkdirError
from tests.processes import ROOT

HOLD = """
import sys
from etils import epath
from epsilon_vae.run.workdir import Heartbeat
heartbeat = Heartbeat(epath.Path(sys.argv[1]), 1)
heartbeat.take()
print("taken", flush=True)
input()
heartbeat.close()
"""


def hold(folder) -> subprocess.Popen:
    """A process that has taken the folder, until it reads a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "taken\n"
    return process


def take(folder, run: int = 2) -> Heartbeat:
    heartbeat = Heartbeat(epath.Path(folder), run)
    heartbeat.take()
    return heartbeat


def read(folder) -> dict:
    return json.loads((folder / "heartbeat.json").read_text())


@pytest.fixture
def quick(monkeypatch):
    """Beats and limits of a test: none of them decides what is found."""
    monkeypatch.setattr(workdir, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(workdir, "_RACE_SECONDS", 0.1)


def of_another_host(folder, **more) -> dict:
    """Leaves the heartbeat of a run of another host, that trains."""
    now = time.time()
    content = {
        "step": 3,
        "unix_seconds": now,
        "training": True,
        "alive_unix_seconds": now,
        "started_unix_seconds": now,
        "host": "elsewhere",
        "process": 7,
        "boot": "another",
        "run": 3,
    }
    (folder / "heartbeat.json").write_text(json.dumps(content | more))
    return content | more


def test_held_by_a_process_freed_by_its_end_or_kill(tmp_path):
    process = hold(tmp_path)
    for _ in range(2):
        with pytest.raises(
            WorkdirError, match=rf"since .*, last seen .* \(process {process.pid} on"
        ):
            take(tmp_path)
    assert read(tmp_path)["run"] == 1 and read(tmp_path)["training"]
    process.communicate("\n")
    assert process.returncode == 0 and not read(tmp_path)["training"]
    process = hold(tmp_path)
    process.send_signal(signal.SIGSTOP)  # it hangs, and is no less there
    with pytest.raises(WorkdirError, match="a run is training here"):
        take(tmp_path)
    process.kill()
    process.wait()
    assert read(tmp_path)["training"]
    heartbeat = take(tmp_path)
    assert read(tmp_path)["run"] == 2
    heartbeat.close()
    take(tmp_path, run=4).close()


def test_another_hosts_run_is_seen_by_its_beats(tmp_path, quick):
    of_another_host(tmp_path)
    beats = threading.Timer(0.5, of_another_host, (tmp_path,), {"step": 4})
    beats.start()
    with pytest.raises(WorkdirError, match=r"\(process 7 on elsewhere\)"):
        take(tmp_path)
    assert read(tmp_path)["run"] == 3


@pytest.mark.parametrize(
    "more",
    [
        {"alive_unix_seconds": time.time() - 1000},  # lost, long ago
        {"training": False},  # ended
        {"alive_unix_seconds": "yesterday"},
        {"alive_unix_seconds": float("nan")},
        {"alive_unix_seconds": 1e99},
    ],
)
def test_another_hosts_run_that_is_gone_frees_the_folder(tmp_path, quick, monkeypatch, more):
    of_another_host(tmp_path, **more)
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waits"))
    take(tmp_path).close()
    assert read(tmp_path)["run"] == 2


def test_another_hosts_run_that_is_silent_frees_the_folder_whatever_its_clock_says(
    tmp_path, quick, monkeypatch
):
    of_another_host(tmp_path, alive_unix_seconds=time.time() + 1000)
    monkeypatch.setattr(workdir, "STALE_SECONDS", 1)
    take(tmp_path).close()
    assert read(tmp_path)["run"] == 2


@pytest.mark.parametrize("content", [b"", b"\0" * 40, b"[]", b"{}", b'{"step": 3', b"\xff\xfe"])
def test_a_broken_heartbeat_holds_nothing(tmp_path, content):
    (tmp_path / "heartbeat.json").write_bytes(content)
    take(tmp_path).close()
    assert not read(tmp_path)["training"]


def test_where_nothing_locks_the_last_to_write_has_the_folder(tmp_path, quick, monkeypatch):
    """As in a bucket, where both find it free."""
    monkeypatch.setattr(workdir, "is_in_bucket", lambda path: True)
    monkeypatch.setattr(time, "sleep", lambda seconds: of_another_host(tmp_path))
    with pytest.raises(WorkdirError, match="elsewhere"):
        take(tmp_path)
    assert read(tmp_path)["run"] == 3


def test_a_run_that_slept_finds_its_folder_taken_and_leaves_it(tmp_path, quick):
    heartbeat = take(tmp_path)
    heartbeat.check()
    of_another_host(tmp_path)
    with pytest.raises(TakenError, match="process 7 on elsewhere"):
        while True:
            heartbeat.check()
    heartbeat.beat(5)
    heartbeat.close()
    assert read(tmp_path)["run"] == 3 and read(tmp_path)["step"] == 3
