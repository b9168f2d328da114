"""Watches a run: requests to stop, metrics that are not finite, speed, memory."""

import contextlib
import os
import resource
import signal
import time

import jax
import numpy as np
from jax.experimental import multihost_utils

from epsilon_vae.errors import NonFiniteError
from epsilon_vae.parallel import hosts
from epsilon_vae.training.state import TrainState, non_finite_fields

SPEED_METRICS = (
    "images_per_second",
    "wait_percent",
    "goodput_percent",
    "step_seconds",
    "step_seconds_max",
)
GIB = 2**30
NOTHING_SAVED = (
    "Nothing of it was saved; the checkpoints before are finite. A lower optim.lr, optim.clip_norm "
    "or float32 may help."
)


class StopSignal(contextlib.AbstractContextManager):
    """SIGTERM, SIGHUP and the first Ctrl-C as a request, which all processes meet after one step.

    Alone, a process handles them itself. Of several, SIGTERM to any one is noticed by JAX's
    coordination service, which listens to it and finds the step; the others are handed to it.
    SIGHUP is left alone where it is ignored, as by nohup. Until `listen_to_interrupts`, Ctrl-C ends
    the process at once, also while it compiles.
    """

    def __init__(self):
        self._received: signal.Signals | None = None
        self._alone = jax.process_count() == 1
        self._previous = {}

    def __enter__(self):
        self._handle(signal.SIGINT, signal.SIG_DFL)
        if self._alone:  # with several processes, a handler would take the place of JAX's
            self._handle(signal.SIGTERM, self._request)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            self._handle(signal.SIGHUP, self._request)
        return self

    def __exit__(self, *exc_info):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def listen_to_interrupts(self) -> None:
        """Called once there is something to save."""
        signal.signal(signal.SIGINT, self._request)

    def stop_requested(self, step: int) -> signal.Signals | None:
        """SIGTERM or SIGINT if the run is to stop after this step, else None.

        All processes ask after every step. SIGINT to any of them counts as one to all.
        """
        if self._alone:
            return self._received
        if not multihost_utils.reached_preemption_sync_point(step):
            return None
        interrupted = not hosts.all_agree(self._received != signal.SIGINT)
        return signal.SIGINT if interrupted else signal.SIGTERM

    def _handle(self, number, handler) -> None:
        self._previous[number] = signal.signal(number, handler)

    def _request(self, number, frame):
        del frame
        is_hangup = number == signal.SIGHUP
        self._received = signal.SIGTERM if is_hangup else signal.Signals(number)
        # A terminal that closes, and the shell in it, may each send one.
        signal.signal(number, signal.SIG_IGN if is_hangup else signal.SIG_DFL)
        words = "" if is_hangup else "; once more to quit at once"
        line = f"{signal.Signals(number).name}: saving soon{words}.\n"
        with contextlib.suppress(OSError):  # print would fail if this has interrupted a print
            os.write(1, line.encode())
        if not self._alone:
            os.kill(os.getpid(), signal.SIGTERM)


class MetricsWindow:
    """Metrics of the steps since the last log line, checked to be finite one step behind.

    It waits for the previous step, not the newest, so that the device stays busy. The time between
    two such waits is the time of a step.
    """

    def __init__(self):
        self.resumed = ""  # said of a run that was resumed, which would go the same way again
        self._done: list[dict[str, float]] = []
        self._step_seconds: list[float] = []
        self._pending, self._begun = None, 0.0

    def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Takes a step's metrics, and waits for those of the step before."""
        if self._pending is None:
            self._begun = time.monotonic()
        self.sync()
        self._pending = (step, metrics)

    def sync(self) -> None:
        """Waits for all metrics.

        Raises:
          NonFiniteError: one is NaN or infinite.
        """
        if self._pending is None:
            return
        step, metrics = self._pending
        self._pending = None
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        now = time.monotonic()
        self._step_seconds.append(now - self._begun)
        self._begun = now
        bad = [f"{name} = {value}" for name, value in values.items() if not np.isfinite(value)]
        if bad:
            raise NonFiniteError(f"step {step}: {', '.join(bad)}. {NOTHING_SAVED}{self.resumed}")
        self._done.append(values)

    def check_state(self, step: int, state: TrainState) -> None:
        """Sees that the state after a step may be saved; all processes call alike.

        A step's metrics are of the parameters before its update: they do not tell.

        Raises:
          NonFiniteError: a metric, a parameter, the EMA or a moment is NaN or infinite.
        """
        self.sync()
        fields = non_finite_fields(state)
        if not hosts.all_agree(not fields):
            names = ", ".join(fields) or "what another process holds"
            raise NonFiniteError(
                f"step {step}: its update made NaN of {names}. {NOTHING_SAVED}{self.resumed}"
            )

    def means(self) -> dict[str, float]:
        """Means over the window, and the longest step; the window is then emptied.

        'accuracy/X' is weighted by 'pairs/X' where there is one: it is over all the window's pairs,
        however they fall to its steps.
        """
        self.sync()
        means = {name: self._mean(name) for name in self._done[0]}
        means["step_seconds"] = float(np.mean(self._step_seconds))
        means["step_seconds_max"] = max(self._step_seconds)
        self._done, self._step_seconds = [], []
        return means

    def _mean(self, name: str) -> float:
        values = [metrics[name] for metrics in self._done]
        kind, _, rest = name.partition("/")
        weights = [m.get(f"pairs/{rest}", 1.0) if kind == "accuracy" else 1.0 for m in self._done]
        return float(np.average(values, weights=weights if sum(weights) > 0 else None))


def memory_metrics() -> dict[str, float]:
    """GiB that this process's first device uses and has used at most, and this process at most.

    On a CPU, only the last is available.
    """
    # Linux counts in KiB.
    metrics = {"memory/host_peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB}
    device = jax.local_devices()[0].memory_stats() or {}
    for name, key in (("device", "bytes_in_use"), ("device_peak", "peak_bytes_in_use")):
        if key in device:
            metrics[f"memory/{name}"] = device[key] / GIB
    return metrics


class StepProfiler:
    """Traces some steps into the run's folder, for TensorBoard's profile plugin and XProf.

    Args:
      workdir: of the run; the trace goes below its `plugins/profile`.
      start_step: first step that is traced; 0 for none.
      num_steps: so many.
    """

    def __init__(self, workdir: str, start_step: int, num_steps: int):
        self._workdir = workdir
        self._steps = range(start_step, start_step + num_steps) if start_step else range(0)
        self._tracing = False

    @contextlib.contextmanager
    def step(self, number: int, window: MetricsWindow):
        """Around a step's call; what is traced begins and ends with an idle device."""
        if number in self._steps and not self._tracing:
            window.sync()
            jax.profiler.start_trace(self._workdir)
            self._tracing = True
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            yield
        if self._tracing and number == self._steps[-1]:
            window.sync()
            self.close()

    def close(self) -> None:
        """Writes the trace, also where the run ends before its last step."""
        if self._tracing:
            jax.profiler.stop_trace()
            self._tracing = False


class Clock:
    """Speed and time left, without compilation and pauses; and goodput, which counts them.

    Goodput is the share of this process's time, since the clock was made, that went into steps:
    not into starting, compiling, evaluating, saving, or waiting for data.

    Args:
      batch_size: images a step.
    """

    def __init__(self, batch_size: int):
        self._batch_size = batch_size
        self._launched = time.monotonic()
        self._started = None
        self._pause_seconds = self._wait_seconds = self._window_wait_seconds = 0.0
        self._last = (0.0, 1)

    def since_launch(self) -> float:
        """Seconds since the clock was made."""
        return time.monotonic() - self._launched

    def start(self) -> None:
        """Called when the first step is done: what came before was compilation."""
        self._started = time.monotonic()
        self._pause_seconds = self._wait_seconds = self._window_wait_seconds = 0.0

    @contextlib.contextmanager
    def paused(self):
        """Time spent inside does not count."""
        begin = time.monotonic()
        yield
        self._pause_seconds += time.monotonic() - begin

    @contextlib.contextmanager
    def waiting(self):
        """Time spent inside counts as waiting for data."""
        begin = time.monotonic()
        yield
        seconds = time.monotonic() - begin
        self._wait_seconds += seconds
        self._window_wait_seconds += seconds

    def goodput_percent(self) -> float:
        """So far; 0 before the first step is done."""
        if self._started is None:
            return 0.0
        return 100 * (self._productive_seconds() - self._wait_seconds) / self.since_launch()

    def read(self, steps_done: int) -> dict[str, float]:
        """Images a second and per cent of waiting for data since the last call; and goodput."""
        seconds = self._productive_seconds()
        last_seconds, last_steps = self._last
        elapsed = max(seconds - last_seconds, 1e-9)
        rate = (steps_done - last_steps) * self._batch_size / elapsed
        wait = min(100.0, 100 * self._window_wait_seconds / elapsed) if rate else 0.0
        self._last = (seconds, steps_done)
        self._window_wait_seconds = 0.0
        goodput = self.goodput_percent()
        return {"images_per_second": rate, "wait_percent": wait, "goodput_percent": goodput}

    def seconds_left(self, steps_left: int) -> float:
        """Seconds to go at the mean speed since the first step; NaN before the second."""
        seconds, steps_done = self._last
        return seconds / (steps_done - 1) * steps_left if steps_done > 1 else float("nan")

    def _productive_seconds(self) -> float:
        return time.monotonic() - self._started - self._pause_seconds
