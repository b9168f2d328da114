"""Runs on two processes, each with one device, over gloo: equal to one, stopped, lost, resumed."""

import shutil
import signal

import pytest

from tests.helpers import (
    FLOW_ALONE,
    PROFILE,
    QUICK_FLAGS,
    STEPS,
    assert_same_metrics,
    assert_same_state,
    flags,
    read_metrics,
    saved_steps,
)
from tests.processes import Process, finish, read_until, start_together


def start_pair(run_module, *arguments: str) -> list[Process]:
    """Compiled without optimization, since each process of each pair compiles for itself."""
    return start_together(run_module, *arguments, environment=QUICK_FLAGS)


@pytest.fixture(scope="module")
def finished_pair(tmp_path_factory, run_module):
    """Workdir of a run of `STEPS` steps on two processes; not to be written to."""
    workdir = tmp_path_factory.mktemp("finished_pair")
    first, second = start_pair(run_module, *flags(workdir, *PROFILE))
    out, _ = finish(first)
    assert f"step {STEPS}/{STEPS}" in out
    out, _ = finish(second)
    assert "step" not in out  # process 0 alone writes
    return workdir


def test_two_processes_equal_one(finished_run, finished_pair):
    """Losses, gradient norms and scores of all steps; all that is written is written once."""
    assert_same_metrics(read_metrics(finished_pair), read_metrics(finished_run))
    assert len(list(finished_pair.glob("events.out.tfevents.*"))) == 1
    ours, theirs = (
        sorted(path.name for path in workdir.iterdir() if "tfevents" not in path.name)
        for workdir in (finished_pair, finished_run)
    )
    assert ours == theirs
    assert len(list(finished_pair.glob("plugins/profile/*/*.xplane.pb"))) == 1


def copy_checkpoint(workdir, step: int, target) -> None:
    shutil.copytree(workdir / "checkpoints" / str(step), target / "checkpoints" / str(step))


def test_one_process_goes_on_on_two(finished_run, run_module, tmp_path):
    copy_checkpoint(finished_run, 4, tmp_path)
    first, second = start_pair(run_module, *flags(tmp_path))
    assert "Resuming from step 4" in finish(first)[0]
    finish(second)
    assert_same_metrics(read_metrics(tmp_path), read_metrics(finished_run)[4:])


def test_two_processes_go_on_on_one(finished_run, finished_pair, run_module, tmp_path):
    copy_checkpoint(finished_pair, 4, tmp_path)
    out, _ = finish(run_module("epsilon_vae.main", *flags(tmp_path)))
    assert "Resuming from step 4" in out
    assert_same_metrics(read_metrics(tmp_path), read_metrics(finished_run)[4:])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 0)])
def test_notice_to_one_process_saves_on_all_at_the_same_step(run_module, tmp_path, number, code):
    processes = start_pair(run_module, *flags(tmp_path, *FLOW_ALONE, "--config.num_steps=1000"))
    read_until(processes[0], "step 3/")
    processes[1].send_signal(number)
    for process in processes:
        _, err = process.communicate(timeout=300)
        assert process.returncode == code, err[-2000:]
    assert 3 < saved_steps(tmp_path)[-1] < 1000
    assert saved_steps(tmp_path)[-1] == int(read_metrics(tmp_path)[-1]["step"])


def test_lost_process_ends_the_other_and_both_resume(finished_pair, run_module, tmp_path):
    """First it hangs, as a host that lost its power or network does: no connection is closed."""
    first, second = start_pair(run_module, *flags(tmp_path), "--heartbeat_timeout_seconds=10")
    read_until(first, "step 5/")
    second.send_signal(signal.SIGSTOP)
    _, err = first.communicate(timeout=100)
    assert first.returncode not in (0, 2, 75) and "another task died" in err
    second.kill()
    second.communicate()
    assert not (tmp_path / "checkpoints" / str(STEPS)).exists()

    first, second = start_pair(run_module, *flags(tmp_path))
    assert "Resuming from step" in finish(first)[0]
    finish(second)
    assert_same_state(tmp_path, finished_pair)
    steps = [int(row["step"]) for row in read_metrics(tmp_path)]
    assert steps == [*range(1, STEPS + 1), STEPS]


def test_killed_process_ends_the_other_with_one_line(run_module, tmp_path):
    """Its connections close, which is seen at the next step."""
    endless = (*FLOW_ALONE, "--config.num_steps=1000", "--config.checkpoint.every_steps=1000")
    first, second = start_pair(run_module, *flags(tmp_path, *endless))
    read_until(first, "step 3/")
    second.kill()
    second.communicate()
    _, err = first.communicate(timeout=60)
    assert first.returncode == 1, err[-2000:]
    assert "epsilon_vae: another process was lost; start all again, to resume" in err
