"""A process that has imported the libraries, and forks: `python -m MODULE` without the imports.

Importing JAX, Orbax, grain and TensorFlow takes two to four seconds, and the tests start some two
hundred commands. Each is still a process of its own, with its own process group, pipes, environment
and exit code; it runs the module as `python -m` does. `tests/processes.py` is the other side.
"""

import gc
import importlib
import json
import os
import runpy
import signal
import socket
import sys
import time
import warnings

from tests import costs

# What commands import. None of them starts JAX's backend, whose threads would not survive a fork.
LIBRARIES = (
    "clu.metric_writers",
    "epsilon_vae.conversion",
    "epsilon_vae.evaluation.evaluation",
    "epsilon_vae.inference.generation",
    "epsilon_vae.run.loop",
)


def serve(requests: socket.socket) -> dict:
    """Forks for each request that arrives; returns in the forks alone, with the request.

    A request is JSON (`arguments`, `directory`, `environment`) and three file descriptors: of
    standard output, standard error, and a pipe that is told the process ID and, once the process
    has ended, its exit code and CPU seconds.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the watchers
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, 2**20, 3)
        if not message:
            sys.exit()
        if os.fork() == 0:
            requests.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            watch(*descriptors)
            return json.loads(message)
        for descriptor in descriptors:
            os.close(descriptor)


def watch(stdout: int, stderr: int, status: int) -> None:
    """Forks once more, and returns in the fork, as a session leader; this process waits for it."""
    process_id = os.fork()
    if process_id == 0:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        for descriptor in (stdout, stderr, status):
            os.close(descriptor)
        return
    for descriptor in (0, 1, 2, stdout, stderr):  # else a reader would wait for this process too
        os.close(descriptor)
    os.write(status, f"{process_id}\n".encode())
    _, code, usage = os.wait4(process_id, 0)
    seconds = usage.ru_utime + usage.ru_stime
    os.write(status, f"{os.waitstatus_to_exitcode(code)} {seconds}\n".encode())
    os._exit(0)


def become(directory: str, environment: dict[str, str]) -> None:
    """Takes on the environment; JAX has read its own variables already, so it is told them."""
    import jax

    os.chdir(directory)
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    for name, value in environment.items():
        if os.environ.get(name) != value:
            os.environ[name] = value
            if name.startswith("JAX_"):
                jax.config.update(name.lower(), parse(value))


def parse(value: str) -> str | int | float | bool:
    """A number, true or false; else the text."""
    try:
        return json.loads(value)
    except ValueError:
        return value


def main() -> None:
    """Serves on the socket whose file descriptor is the argument."""
    requests = socket.socket(fileno=int(sys.argv[1]))
    # TensorFlow reads these once: it announces its kernels otherwise, and failures that it raises.
    os.environ |= {"TF_ENABLE_ONEDNN_OPTS": "0", "TF_CPP_MIN_LOG_LEVEL": "2"}
    for name in LIBRARIES:
        importlib.import_module(name)
    # JAX warns of forks, since a backend's threads would be lost; there is no backend here.
    warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)
    costs.tell("starting", time.process_time())
    # Collecting garbage in a fork would touch, and so copy, all that it shares with this process.
    gc.collect()
    gc.freeze()
    request = serve(requests)
    become(request["directory"], request["environment"])
    costs.tell("starting", time.process_time())
    costs.listen(costs.tell)
    module, *arguments = request["arguments"]
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
