"""Runs a command that has been given something broken, and says what it made of it."""

import dataclasses
import os
import pathlib
import signal
import threading
import time
from collections.abc import Callable

from tests.processes import Process

RunModule = Callable[..., Process]
MAX_SECONDS = 60
MAX_GIB = 3
MAX_LINES = 5  # on stderr: warnings, and the line that says why


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a command ended.

    Attributes:
      code: its exit code.
      out, err: what it printed.
      fault: what it must not do, in words; empty if it did nothing of the kind.
    """

    code: int
    out: str
    err: str
    fault: str

    def with_fault(self, fault: str) -> "Outcome":
        """The same, with a fault that was found in what the command wrote."""
        return dataclasses.replace(self, fault=fault)

    @property
    def last_line(self) -> str:
        """Of stderr."""
        return self.err.strip().splitlines()[-1] if self.err.strip() else ""


def run_watched(run_module: RunModule, module: str, *arguments: str) -> Outcome:
    """Runs a command under limits of memory and time; reports tracebacks and other faults."""
    process = run_module(module, *arguments)
    texts: list[tuple[str, str]] = []
    reader = threading.Thread(target=lambda: texts.append(process.communicate()), daemon=True)
    reader.start()
    fault, deadline = "", time.monotonic() + MAX_SECONDS
    while not fault and reader.is_alive():
        if time.monotonic() > deadline:
            fault = f"more than {MAX_SECONDS} s"
        elif resident_gib(process.pid) > MAX_GIB:
            fault = f"more than {MAX_GIB} GiB"
        time.sleep(0.05)
    if fault:
        os.kill(process.pid, signal.SIGKILL)
    reader.join()
    ((out, err),) = texts
    code = process.wait()
    return Outcome(code=code, out=out, err=err, fault=fault or _fault(code, err))


def resident_gib(pid: int) -> float:
    """Memory that a process uses; 0 if it has ended."""
    try:
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    lines = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(lines[0].split()[1]) / 2**20 if lines else 0.0


def _fault(code: int, err: str) -> str:
    lines = err.strip().splitlines()
    if "Traceback" in err:
        return f"a traceback, code {code}"
    if code not in (0, 1, 2):
        return f"code {code}"
    if len(lines) > MAX_LINES:
        return f"{len(lines)} lines on stderr"
    if code and not (lines and lines[-1].startswith("epsilon_vae: ")):
        return f"code {code} without a line that says why"
    return ""
