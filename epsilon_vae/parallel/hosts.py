"""Several processes, on one host or many: starting together, agreeing, and leaving.

Every function that agrees must be called by all processes, in the same order.
"""

import contextlib
import os
import re
import socket
import sys
import threading
import traceback
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from typing import NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from epsilon_vae.errors import UserError

SHUTDOWN_TIMEOUT_SECONDS = 120
LEAVE_TIMEOUT_SECONDS = 10
SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")


class HostsError(UserError):
    """Processes that cannot start together; the message says why and what to check."""


class NotTogetherError(RuntimeError):
    """Processes that did not come together this time: one may be late, and the next start do."""


def start(
    *,
    coordinator_address: str | None,
    num_processes: int | None,
    process_id: int | None,
    startup_timeout_seconds: int,
    heartbeat_timeout_seconds: int,
) -> None:
    """Joins this process to the others; comes before anything else that asks JAX for devices.

    Without an address, Cloud TPU, GKE and SLURM are recognised by JAX; alone, nothing is started.

    Args:
      coordinator_address: `HOST:PORT` of process 0, together with the next two, or None.
      num_processes: of all hosts.
      process_id: of this one, from 0.
      startup_timeout_seconds: when it is over and the others are not there, this process ends with
        one line and exit code 1: a host that was preempted may be there at the next start.
      heartbeat_timeout_seconds: a process that was silent for so long is lost, and all others end.

    Raises:
      HostsError: contradictory arguments, or a port that is taken.
      NotTogetherError: a start that failed.
    """
    _check_arguments(coordinator_address, num_processes, process_id)
    by_flags = coordinator_address is not None
    count = num_processes if by_flags else expected_processes()
    if count == 1:
        return
    if process_id == 0:
        _check_port_is_free(coordinator_address)
    message = (
        f"not all of the {count} processes came together within {startup_timeout_seconds} s "
        "(startup_timeout_seconds); check that each was started, with an id of its own and the "
        f"same number of processes, and reaches {coordinator_address or 'the first host'}"
    )
    with _within(startup_timeout_seconds, message):
        try:
            jax.distributed.initialize(
                coordinator_address,
                num_processes,
                process_id,
                cluster_detection_method="deactivate" if by_flags else None,
                # The message above comes first: JAX's own timeout aborts with a stack trace.
                initialization_timeout=startup_timeout_seconds + 60,
                heartbeat_timeout_seconds=heartbeat_timeout_seconds,
                shutdown_timeout_seconds=SHUTDOWN_TIMEOUT_SECONDS,
            )
            jax.device_count()  # Here the backends of all hosts meet, which may hang too.
        except (RuntimeError, ValueError, OSError) as error:
            line = " ".join(str(error).split())
            raise NotTogetherError(
                f"{count} processes expected, but starting failed: {line}"
            ) from error


def expected_processes() -> int:
    """How many processes a launcher says that it has started; 1 where nothing says so.

    Only a machine with TPU chips asks over the network: the metadata server of its host.
    """
    environment = os.environ
    if all(name in environment for name in SLURM):
        return int(environment["SLURM_NTASKS"])
    hosts = environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES")
    if hosts:  # GKE
        return len(hosts.split(",")) * int(environment.get("MEGASCALE_NUM_SLICES") or 1)
    if "TPU_SKIP_MDS_QUERY" in environment:  # set by JAX where there is no TPU chip
        return 1
    hosts = _metadata("worker-network-endpoints")
    slices = re.search(r"MEGASCALE_NUM_SLICES: *'?(\d+)", _metadata("tpu-env"))
    return max(1, len(hosts.split(","))) * (int(slices[1]) if slices else 1)


def is_first() -> bool:
    """Whether this is process 0, the one that writes."""
    return jax.process_index() == 0


def all_agree(yes: bool) -> bool:  # noqa: FBT001, its one argument
    """Whether all processes say yes."""
    return total(int(not yes)) == 0


def total(number: int) -> int:
    """The sum of the processes' numbers, each below 2**31."""
    if jax.process_count() == 1:
        return number
    return int(np.sum(multihost_utils.process_allgather(np.int32(number)), dtype=np.int64))


def concatenate(array: np.ndarray) -> np.ndarray:
    """The processes' arrays, of one shape, one after the other along the first axis."""
    if jax.process_count() == 1:
        return array
    return multihost_utils.process_allgather(array, tiled=True)


def broadcast_from_first(number: int) -> int:
    """The number, below 2**32, that process 0 gave."""
    return int(multihost_utils.broadcast_one_to_all(np.uint32(number)))


def array_from_first(array: np.ndarray) -> np.ndarray:
    """The array that process 0 gave; all have one shape and type."""
    if jax.process_count() == 1:
        return array
    return np.asarray(multihost_utils.broadcast_one_to_all(array))


def all_equal(text: str) -> bool:
    """Whether all processes have the same text as process 0."""
    checksum = zlib.crc32(text.encode())
    return all_agree(checksum == broadcast_from_first(checksum))


def barrier(name: str) -> None:
    """Returns once all processes are here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def exit_process(code: int, *, wait: bool = True) -> NoReturn:
    """Ends this process after an error, when others may never come to the end of theirs.

    Args:
      code: exit code.
      wait: some seconds for the others, so that those that fail alike can say so too; of no use
        where one is lost.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if not jax.distributed.is_initialized():
        sys.exit(code)
    if wait:
        _end_after(LEAVE_TIMEOUT_SECONDS, code)
        jax.distributed.shutdown()
    os._exit(code)


def is_loss_of_a_process(error: Exception) -> bool:
    """Whether an error of a computation, or of a barrier, is that another process is gone."""
    words = r"Gloo|NCCL|reset by peer|closed by peer|unhealthy|coordination service"
    return re.search(words, str(error)) is not None


def why_no_devices(error: Exception) -> str | None:
    """One line if an error is JAX's that it finds no devices, as JAX_PLATFORMS names them."""
    asked = f"JAX_PLATFORMS={jax.config.jax_platforms or ''}"
    where = traceback.extract_tb(error.__traceback__)[-1:]
    if isinstance(error, AssertionError) and where and where[0].filename.endswith("xla_bridge.py"):
        return (
            f"{asked}: JAX finds no such device here; check its driver and that JAX is installed "
            "for it (the extras cuda and tpu), or set JAX_PLATFORMS to what is here, as cpu"
        )
    if isinstance(error, RuntimeError) and "Unable to initialize backend" in str(error):
        return f"{asked}: {' '.join(str(error).split())}"
    return None


def _check_arguments(
    coordinator_address: str | None, num_processes: int | None, process_id: int | None
) -> None:
    given = {
        "coordinator_address": coordinator_address,
        "num_processes": num_processes,
        "process_id": process_id,
    }
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == 3:
        return
    if missing:
        raise HostsError(
            f"{' and '.join(missing)} missing: give {', '.join(given)} all three, or none"
        )
    if not re.fullmatch(r".+:\d+", coordinator_address):
        raise HostsError(f"coordinator_address={coordinator_address}: expected HOST:PORT")
    if num_processes < 1 or not 0 <= process_id < num_processes:
        raise HostsError(
            f"process_id={process_id}: with num_processes={num_processes}, expected a whole "
            f"number from 0 to {num_processes - 1}"
        )


def _check_port_is_free(address: str) -> None:
    """JAX would crash instead of saying so, or share the port with another process 0."""
    port = int(address.rsplit(":", 1)[1])
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except (OSError, OverflowError) as error:
            raise HostsError(
                f"coordinator_address={address}: port {port} cannot be listened at here "
                f"({error}); is another process 0 running? Otherwise take another port"
            ) from error


def _metadata(key: str) -> str:
    """Asks a Google Cloud host about itself; empty where it says nothing."""
    server = os.environ.get("GCE_METADATA_IP", "metadata.google.internal")
    url = f"http://{server}/computeMetadata/v1/instance/attributes/{key}"
    request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.read().decode()
    except (OSError, urllib.error.URLError):
        return ""


@contextlib.contextmanager
def _within(seconds: float, message: str) -> Iterator[None]:
    """Ends the process, with `message` and code 1, unless the block ends in time.

    What runs inside is C++ that waits and that nothing can interrupt.
    """
    timer = _end_after(seconds, 1, f"epsilon_vae: {message}")
    try:
        yield
    finally:
        timer.cancel()


def _end_after(seconds: float, code: int, message: str = "") -> threading.Timer:
    def end():
        if message:
            print(message, file=sys.stderr, flush=True)
        os._exit(code)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    return timer
