"""Step times, goodput, and traces of steps."""

import signal
import time

import jax
import jax.numpy as jnp
import pytest

from epsilon_vae.run.monitor import (
    Clock,
    MetricsWindow,
    StepProfiler,
    StopSignal,
    memory_metrics,
)


def test_goodput_leaves_out_what_is_no_step(monkeypatch):
    """10 s of starting; 60 s of steps, of which 6 of waiting, and 30 s of evaluation."""
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    clock = Clock(batch_size=8)
    assert clock.goodput_percent() == 0
    now = 10.0
    clock.start()
    with clock.waiting():
        now = 16.0
    now = 70.0
    with clock.paused():
        now = 100.0
    assert clock.goodput_percent() == 54
    speed = clock.read(steps_done=61)
    assert speed == {"images_per_second": 8.0, "wait_percent": 10.0, "goodput_percent": 54.0}


def test_step_seconds_leave_out_pauses(monkeypatch):
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    window = MetricsWindow()
    window.add(1, {"loss": jnp.ones(())})
    now = 2.0
    window.add(2, {"loss": jnp.ones(())})
    now = 6.0
    window.sync()
    now = 100.0  # an evaluation
    window.add(3, {"loss": jnp.ones(())})
    now = 103.0
    means = window.means()
    assert means == {"loss": 1.0, "step_seconds": 3.0, "step_seconds_max": 4.0}


def test_accuracy_is_of_all_the_windows_pairs():
    """A step without pairs in a bin does not count, nor one with few as much as one with many."""
    window = MetricsWindow()
    steps = [(0.5, 0.9, 0.0), (0.5, 0.5, 0.25), (0.5, 1.0, 0.75)]
    for step, (loss, accuracy, pairs) in enumerate(steps):
        names = ("loss/disc", "accuracy/disc_t0", "pairs/disc_t0", "accuracy/other")
        values = map(jnp.asarray, (loss, accuracy, pairs, accuracy))
        window.add(step, dict(zip(names, values, strict=True)))
    means = window.means()
    assert means["accuracy/disc_t0"] == 0.25 * 0.5 + 0.75 * 1.0
    assert abs(means["accuracy/other"] - 0.8) < 1e-6 and means["loss/disc"] == 0.5
    window.add(3, {"accuracy/disc_t0": jnp.asarray(0.75), "pairs/disc_t0": jnp.zeros(())})
    assert window.means()["accuracy/disc_t0"] == 0.75


def test_memory_of_this_process_is_plausible():
    assert 0.05 < memory_metrics()["memory/host_peak"] < 100


def test_trace_holds_the_steps_that_were_asked_for(tmp_path):
    window, profiler = MetricsWindow(), StepProfiler(str(tmp_path), 3, 2)
    step = jax.jit(lambda x: {"loss": jnp.sum(x)})
    for number in range(1, 7):
        with profiler.step(number, window):
            window.add(number, step(jnp.ones((4, 4))))
        assert bool(list(tmp_path.rglob("*.xplane.pb"))) == (number >= 4)
    (trace,) = tmp_path.glob("plugins/profile/*/*.xplane.pb")
    assert b"train" in trace.read_bytes()


def test_trace_is_written_where_the_run_ends_early(tmp_path):
    window, profiler = MetricsWindow(), StepProfiler(str(tmp_path), 1, 9)
    with profiler.step(1, window):
        window.add(1, {"loss": jnp.ones(())})
    profiler.close()
    profiler.close()
    assert list(tmp_path.rglob("*.xplane.pb"))


@pytest.mark.parametrize("before", [signal.SIG_IGN, signal.SIG_DFL])
def test_hangup_is_left_alone_where_it_is_ignored(before):
    """As nohup has it."""
    previous = signal.signal(signal.SIGHUP, before)
    try:
        with StopSignal() as stop:
            assert (signal.getsignal(signal.SIGHUP) == signal.SIG_IGN) == (before == signal.SIG_IGN)
            for _ in range(2):
                signal.raise_signal(signal.SIGHUP)
            assert stop.stop_requested(1) == (None if before == signal.SIG_IGN else signal.SIGTERM)
        assert signal.getsignal(signal.SIGHUP) == before
    finally:
        signal.signal(signal.SIGHUP, previous)


def test_no_trace_unless_asked_for(tmp_path):
    window, profiler = MetricsWindow(), StepProfiler(str(tmp_path), 0, 4)
    with profiler.step(0, window):
        pass
    profiler.close()
    assert not list(tmp_path.iterdir())
