"""Commands as processes: started, watched, stopped and killed as a user's shell would."""

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent

# Of processes of tests, which look at every line: on a slow machine, no others come between.
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "2", "EPSILON_VAE_SILENCE_SECONDS": "3600"}

# CPU seconds of processes that have ended, by all fork servers of this test process.
ended_cpu_seconds = 0.0


class Process:
    """A running `python -m MODULE`, with the interface of `subprocess.Popen`.

    Attributes:
      pid: of the process, which leads its process group.
      stdout, stderr: text.
      returncode: None while it is not known to have ended; -N where signal N ended it.
    """

    def __init__(self, stdout: int, stderr: int, status: int):
        self.stdout, self.stderr = os.fdopen(stdout), os.fdopen(stderr)
        self._status = os.fdopen(status)
        self.pid = int(self._status.readline())
        self.returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once the process has ended.

        Raises:
          subprocess.TimeoutExpired: it has not.
        """
        global ended_cpu_seconds
        if self.returncode is None:
            with selectors.DefaultSelector() as selector:
                selector.register(self._status, selectors.EVENT_READ)
                if not selector.select(timeout):
                    raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
            code, seconds = self._status.readline().split()
            self.returncode = int(code)
            ended_cpu_seconds += float(seconds)
        return self.returncode

    def poll(self) -> int | None:
        """The exit code, or None while the process runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """All that is left of both streams, once they are closed and the process has ended."""
        texts = ["", ""]

        def read(index: int, stream) -> None:
            texts[index] = stream.read()

        streams = enumerate((self.stdout, self.stderr))
        threads = [threading.Thread(target=read, args=x, daemon=True) for x in streams]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout)
            if thread.is_alive():
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        self.wait(timeout)
        return texts[0], texts[1]

    def send_signal(self, number: int) -> None:
        """Sends a signal to the process alone."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Ends it at once, as a host that loses its power."""
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """Starts processes by `tests/fork_server.py`; what still runs at the end is killed."""

    def __init__(self):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        number = theirs.fileno()
        arguments = [sys.executable, "-m", "tests.fork_server", str(number)]
        self._server = subprocess.Popen(arguments, cwd=ROOT, pass_fds=[number])
        theirs.close()
        self._requests = ours
        self._processes: list[Process] = []

    def run(self, module: str, *arguments: str, **environment: str) -> Process:
        """Starts `python -m MODULE ARGUMENTS…` from the root of the repository."""
        request = {
            "arguments": (module, *map(str, arguments)),
            "directory": str(ROOT),
            "environment": {**os.environ, **QUIET, **environment},
        }
        pipes = [os.pipe() for _ in range(3)]
        writers = [writer for _, writer in pipes]
        socket.send_fds(self._requests, [json.dumps(request).encode()], writers)
        for writer in writers:
            os.close(writer)
        process = Process(*(reader for reader, _ in pipes))
        self._processes.append(process)
        return process

    def close(self) -> None:
        """Ends the server, and what it has started."""
        for process in self._processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        self._requests.close()
        self._server.wait()


def start_alone(module: str, *arguments: str, **environment: str) -> subprocess.Popen:
    """`python -m MODULE ARGUMENTS…` as a user starts it, with all its imports."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a process group of its own, as a terminal gives it
    )


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def start_together(
    run_module: Callable[..., Process],
    *arguments: str,
    count: int = 2,
    ids: Sequence[int] = (0, 1),
    each: Callable[[int], Sequence[str]] = lambda index: (),
    module: str = "epsilon_vae.main",
    environment: Mapping[str, str] | None = None,
) -> list[Process]:
    """Processes of a module that know of each other, with one device each.

    Args:
      run_module: starts one.
      arguments: of all.
      count: of processes that are expected.
      ids: of those that are started.
      each: id → further arguments of one.
      module: a command that takes several processes.
      environment: of all, beside this process's.
    """
    address = f"--coordinator_address=127.0.0.1:{free_port()}"
    return [
        run_module(
            module,
            *arguments,
            address,
            f"--num_processes={count}",
            f"--process_id={index}",
            *each(index),
            **(environment or {}),
        )
        for index in ids
    ]


def partial_path(path: Path, pid: int) -> Path:
    """Where a process writes what becomes `path`, by `epsilon_vae.output`."""
    return path.with_name(f".{path.name}.{pid}.partial")


def read_until(process: Process, words: str) -> None:
    """Reads standard output up to a line with these words."""
    for line in process.stdout:
        if words in line:
            return
    raise AssertionError(f"never said {words!r}: {process.stderr.read()[-2000:]}")


def finish(process: Process, timeout_seconds: float = 300) -> tuple[str, str]:
    """What a process printed, once it has ended well."""
    out, err = process.communicate(timeout=timeout_seconds)
    assert process.returncode == 0, err[-2000:]
    return out, err
