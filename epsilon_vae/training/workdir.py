"""The run's folder: on a disk that all processes share, or in a bucket (`gs://`)."""

import json
import time
from collections.abc import Callable

from etils import epath

from epsilon_vae.parallel import hosts

# Network disks may show a new file to another host after some seconds only.
SEEN_TIMEOUT_SECONDS = 20


class WorkdirError(ValueError):
    """A folder that a run cannot use; the message names it and what would do."""


def write_whole(path: epath.Path, content: bytes) -> None:
    """Writes a file of which readers see the old content or the new, never a part."""
    unfinished = path.with_name(f"{path.name}.tmp")
    unfinished.write_bytes(content)
    unfinished.replace(path)


def is_seen(is_there: Callable[[], bool]) -> bool:
    """Whether what another process has written is there, if need be after a while."""
    deadline = time.monotonic() + SEEN_TIMEOUT_SECONDS
    while not is_there():
        if time.monotonic() > deadline:
            return False
        time.sleep(1)
    return True


class Heartbeat:
    """`heartbeat.json`, written by process 0: that the run is alive, and at which step.

    It holds `step`, null before the first; `unix_seconds` of the writing; `started_unix_seconds`.

    Args:
      workdir: of the run.
      started: when it was launched, Unix time in whole seconds.
    """

    def __init__(self, workdir: epath.Path, started: int):
        self._path, self._started = workdir / "heartbeat.json", started

    def beat(self, step: int | None) -> None:
        """Writes the file."""
        content = {
            "step": step,
            "unix_seconds": round(time.time(), 3),
            "started_unix_seconds": self._started,
        }
        write_whole(self._path, f"{json.dumps(content)}\n".encode())

    def is_seen(self) -> bool:
        """Whether this process finds this run's file, if need be after a while."""
        words = f'"started_unix_seconds": {self._started}'
        return is_seen(lambda: self._path.exists() and words in self._path.read_text())


def open_workdir(workdir: str) -> Heartbeat:
    """Makes the folder, and sees to it that all processes look at the same one.

    Returns:
      The heartbeat, which has been given once.

    Raises:
      WorkdirError: it cannot be made, or not all processes see what process 0 wrote to it.
    """
    path = epath.Path(workdir)
    heartbeat = Heartbeat(path, hosts.broadcast_from_first(int(time.time())))
    if hosts.is_first():
        try:
            path.mkdir(parents=True, exist_ok=True)
            heartbeat.beat(step=None)
        except Exception as error:  # buckets raise kinds of their own
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())
            raise WorkdirError(
                f"--workdir={workdir}: cannot be made or written to ({reason}); name a folder of "
                "yours"
            ) from error
    hosts.barrier("first heartbeat")
    if not hosts.all_agree(heartbeat.is_seen()):
        raise WorkdirError(
            f"--workdir={workdir}: not the same folder for all processes; name one on a disk that "
            "their hosts share, or a gs:// path"
        )
    return heartbeat
