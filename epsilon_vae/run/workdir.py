"""The run's folder: on a disk that all processes share, or in a bucket (`gs://`)."""

import json
import time

from etils import epath

from epsilon_vae.errors import UserError
from epsilon_vae.output import is_seen, write_whole
from epsilon_vae.parallel import hosts
from epsilon_vae.step_folders import check_is_writable_name


class WorkdirError(UserError):
    """A folder that a run cannot use; the message names it and what would do."""


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
      CheckpointError: checkpoints cannot be in a folder of this name.
      WorkdirError: it cannot be made, or not all processes see what process 0 wrote to it.
    """
    check_is_writable_name(workdir)
    path = epath.Path(workdir)
    heartbeat = Heartbeat(path, hosts.broadcast_from_first(int(time.time())))
    if hosts.is_first():
        try:
            path.mkdir(parents=True, exist_ok=True)
            heartbeat.beat(step=None)
        except Exception as error:  # buckets raise kinds of their own
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())
            raise WorkdirError(
                f"{workdir}: cannot be made or written to ({reason}); name a folder of yours"
            ) from error
    hosts.barrier("first heartbeat")
    if not hosts.all_agree(heartbeat.is_seen()):
        raise WorkdirError(
            f"{workdir}: not the same folder for all processes; name one on a disk that "
            "their hosts share, or a gs:// path"
        )
    return heartbeat
