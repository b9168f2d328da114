"""Where the tests' time goes: `pytest --costs` ends with a table of CPU seconds by file.

It also writes the seconds by the clock to costs.json, by which later runs order the files.

Of each file, the test's own process and the processes that it started:

- `starting`: the fork server's imports, and forks until they begin with their module; a process
  that is started otherwise counts as `computing`
- `tracing`: Python to jaxprs to StableHLO, by JAX's monitoring events
- `compiling`: by XLA, or reading a compiled program from the cache, by the same
- `computing`: what is left of the CPU seconds: programs that run, Python, imports
- `waiting`: what no CPU was needed for: the seconds by the clock over the CPU seconds

JAX's events are in seconds by the clock, so on busy cores their columns are too large and
`computing` too small. A process that is killed tells its events until then.
"""

import json
import os
import pathlib
import resource
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable

import jax
import pytest

from tests import processes

EVENTS = {
    "/jax/core/compile/jaxpr_trace_duration": "tracing",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "tracing",
    "/jax/core/compile/backend_compile_duration": "compiling",
}
COLUMNS = ("seconds", "cpu", "starting", "tracing", "compiling", "computing", "waiting")
FOLDER = "TESTS_COSTS_FOLDER"  # in the environment of processes that shall tell their events


RECORD = pathlib.Path(__file__).with_name("costs.json")


def recorded_seconds() -> dict[str, float]:
    """By file, what its tests took in the last run with `--costs` that had it."""
    return json.loads(RECORD.read_text()) if RECORD.exists() else {}


def tell(column: str, seconds: float) -> None:
    """Of a process that a test has started, to the test's own, if that wants to know."""
    folder = os.environ.get(FOLDER)
    if folder:
        with (pathlib.Path(folder) / str(os.getpid())).open("a") as file:
            file.write(f"{column} {seconds}\n")


def listen(add: Callable[[str, float], None]) -> None:
    """Has JAX say the seconds that go into tracing and compiling."""

    def listener(event: str, seconds: float, **_) -> None:
        if event in EVENTS:
            add(EVENTS[event], seconds)

    jax.monitoring.register_event_duration_secs_listener(listener)


class Costs:
    """The plugin: what each file of tests costs; the workers of pytest-xdist send theirs."""

    def __init__(self, config: pytest.Config):
        self._config = config
        self._files: dict[str, dict[str, float]] = defaultdict(lambda: dict.fromkeys(COLUMNS, 0.0))
        self._events = dict.fromkeys(COLUMNS, 0.0)
        self._folder = pathlib.Path(tempfile.mkdtemp(prefix="costs_"))
        os.environ[FOLDER] = str(self._folder)
        listen(self._add)

    def _add(self, column: str, seconds: float) -> None:
        self._events[column] += seconds

    def _now(self) -> dict[str, float]:
        for path in self._folder.iterdir():
            text = path.read_text()
            path.unlink()
            for line in text.splitlines():
                column, seconds = line.split()
                self._events[column] += float(seconds)
        own, children = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        started = children.ru_utime + children.ru_stime + processes.ended_cpu_seconds
        cpu = own.ru_utime + own.ru_stime + started
        return self._events | {"seconds": time.monotonic(), "cpu": cpu}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item):
        """Adds what a test and its fixtures cost to its file's costs."""
        before = self._now()
        result = yield
        after, file = self._now(), self._files[item.location[0]]
        for column in COLUMNS:
            file[column] += after[column] - before[column]
        return result

    def pytest_sessionfinish(self) -> None:
        """A worker sends its costs to the process that reports."""
        if hasattr(self._config, "workeroutput"):
            self._config.workeroutput["costs"] = {k: dict(v) for k, v in self._files.items()}

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node) -> None:
        """A worker has ended."""
        for name, costs in getattr(node, "workeroutput", {}).get("costs", {}).items():
            for column, value in costs.items():
                self._files[name][column] += value

    def pytest_terminal_summary(self, terminalreporter) -> None:
        """Prints the table, the dearest file first, and records the seconds."""
        total = dict.fromkeys(COLUMNS, 0.0)
        for costs in self._files.values():
            told = costs["starting"] + costs["tracing"] + costs["compiling"]
            costs["computing"] = max(0.0, costs["cpu"] - told)
            costs["waiting"] = max(0.0, costs["seconds"] - costs["cpu"])
            for column in COLUMNS:
                total[column] += costs[column]
        terminalreporter.section("costs in seconds, by file")
        rows = sorted(self._files.items(), key=lambda row: -row[1]["cpu"])
        terminalreporter.write_line(f"{'':44}" + "".join(f"{name:>11}" for name in COLUMNS))
        for name, costs in [*rows, ("total", total)]:
            numbers = "".join(f"{costs[column]:11.1f}" for column in COLUMNS)
            terminalreporter.write_line(f"{name:44}{numbers}")
        seconds = {name: round(costs["seconds"]) for name, costs in self._files.items()}
        record = recorded_seconds() | seconds
        RECORD.write_text(json.dumps(dict(sorted(record.items())), indent=1) + "\n")
