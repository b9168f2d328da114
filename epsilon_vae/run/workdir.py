"""The run's folder, on a disk that all processes share or in a bucket (`gs://`): one run has it."""

import contextlib
import datetime
import errno
import fcntl
import json
import os
import pathlib
import secrets
import shutil
import socket
import threading
import time

from etils import epath

from epsilon_vae.errors import FailedError, UserError, reason
from epsilon_vae.output import is_in_bucket, is_seen, write_whole
from epsilon_vae.parallel import hosts
from epsilon_vae.step_folders import check_is_writable_name

BEAT_SECONDS = 10
# A run of another host, or in a bucket, that was silent for so long is gone.
STALE_SECONDS = 60
# Without a lock, two may find the folder free and both write; after this, all see who was last.
_RACE_SECONDS = 3
_BOOT_ID = pathlib.Path("/proc/sys/kernel/random/boot_id")


class WorkdirError(UserError):
    """A folder that a run cannot use; the message names it and what would do."""


class TakenError(FailedError):
    """Another run has taken the folder while this one did not give its heartbeat."""


class Heartbeat:
    """`heartbeat.json`, written by process 0: who trains in the folder, and how far it is.

    It holds `step` and `unix_seconds` of the last log line, null before the first step; `training`,
    false once the run has ended, and `ended`, how; `alive_unix_seconds`, every `BEAT_SECONDS`;
    `started_unix_seconds`; `host`, `process`, `boot` and `run`, which tell runs apart.

    While a run trains, nobody else may train there: on a disk, the file `.lock` is locked, which
    ends with the process, whatever ends it. Where that says nothing, in a bucket or of another host
    (whose locks not every network disk knows), the file's time does.

    Args:
      workdir: of the run.
      run: a number of this run's own, below 2**32, alike on all processes.
    """

    def __init__(self, workdir: epath.Path, run: int):
        self._workdir, self._path, self._run = workdir, workdir / "heartbeat.json", run
        now = time.time()
        self._content = {
            "step": None,
            "unix_seconds": round(now, 3),
            "training": True,
            "ended": None,
            "alive_unix_seconds": round(now, 3),
            "started_unix_seconds": int(now),
            "host": socket.gethostname(),
            "process": os.getpid(),
            "boot": _boot(),
            "run": run,
        }
        self._locked: int | None = None  # descriptor of the locked file
        self._writing, self._ended = threading.Lock(), threading.Event()
        self._is_taken, self._taken_by, self._end = False, None, "failed"
        self.is_new = False  # nothing was there before this run; a refused one then leaves nothing

    def take(self) -> None:
        """Takes the folder, if need be once another host's run there was silent for long enough.

        Raises:
          WorkdirError: a run is training there.
        """
        is_locking = not is_in_bucket(self._workdir) and self._lock()
        before = self._read()
        if not (is_locking and before.get("boot") == self._content["boot"]):
            self._wait_for_silence(before)
        self._write()
        if not is_locking:
            time.sleep(_RACE_SECONDS)
        if self._read().get("run") != self._run:
            raise self._refusal(self._read())
        self._is_taken = True
        threading.Thread(target=self._beat_on, daemon=True).start()

    def beat(self, step: int) -> None:
        """Writes the file, after a log line of a step."""
        self._content |= {"step": step, "unix_seconds": round(time.time(), 3)}
        self._renew()

    def check(self) -> None:
        """Raises `TakenError` where another run has taken the folder, as while this one slept."""
        if self._taken_by is not None:
            raise TakenError(
                f"{self._workdir}: {_in_words(self._taken_by)} has taken the folder while this run "
                "was silent; nothing more was saved"
            )

    def end(self, how: str) -> None:
        """Takes note that the run is 'done', 'stopped' or 'preempted'; else it has failed."""
        self._end = how

    def close(self) -> None:
        """Leaves the folder to other runs; on processes that have not taken it, does nothing."""
        self._ended.set()
        self._content |= {"training": False, "ended": self._end}
        if self._is_taken:
            self._renew()
        if self._locked is not None:
            os.close(self._locked)
            self._locked = None
        if self.is_new and self._content["step"] is None and not is_in_bucket(self._workdir):
            with self._writing:
                _remove_unused(pathlib.Path(self._workdir))

    def is_seen(self) -> bool:
        """Whether this process finds this run's file, if need be after a while."""
        return is_seen(lambda: self._read().get("run") == self._run)

    def _lock(self) -> bool:
        """Locks a file, which no other process of this host can then; False on disks without locks.

        Raises:
          WorkdirError: another process has locked it.
        """
        descriptor = os.open(self._workdir / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                raise self._refusal(self._read()) from error
            if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
                return False
            raise
        self._locked = descriptor
        return True

    def _wait_for_silence(self, before: dict) -> None:
        """Returns once the run that has written the file has ended, or was silent for too long."""
        deadline = time.monotonic() + STALE_SECONDS  # whatever the other host's clock says
        now, is_first = before, True
        while now.get("training") and _age(now) < STALE_SECONDS and time.monotonic() < deadline:
            if any(now[name] != before[name] for name in ("run", "alive_unix_seconds")):
                raise self._refusal(now)
            if is_first:
                print(f"{self._workdir}: {_in_words(now)}; seeing whether it is alive", flush=True)
            is_first = False
            time.sleep(1)
            now = self._read()

    def _beat_on(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            self._renew()

    def _renew(self) -> None:
        """Writes the file, unless another run has; one that cannot be written is left as it is."""
        with contextlib.suppress(Exception):
            found = self._read()
            if found.get("training") and found["run"] != self._run:
                self._taken_by = found
            elif self._taken_by is None:
                self._write()

    def _read(self) -> dict:
        """What the file says; empty where it says nothing that can be used."""
        try:
            content = json.loads(self._path.read_text())
            times = [content[name] for name in ("alive_unix_seconds", "started_unix_seconds")]
            is_good = all(0 <= x < 2**33 for x in times) and "run" in content
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        return content if is_good else {}

    def _write(self) -> None:
        with self._writing:
            self._content["alive_unix_seconds"] = round(time.time(), 3)
            write_whole(self._path, f"{json.dumps(self._content)}\n".encode())

    def _refusal(self, other: dict) -> WorkdirError:
        return WorkdirError(
            f"{self._workdir}: {_in_words(other)}; wait for its end, or name another folder"
        )


def _remove_unused(workdir: pathlib.Path) -> None:
    """Removes a folder in which no run has begun: there is no file but those that show one."""
    files = {path.name for path in workdir.rglob("*") if not path.is_dir()}
    if files <= {".lock", "heartbeat.json"}:
        shutil.rmtree(workdir, ignore_errors=True)


def open_workdir(workdir: str) -> Heartbeat:
    """Makes the folder, takes it for this run, and sees that all processes look at the same one.

    Returns:
      The heartbeat, which is to be closed.

    Raises:
      CheckpointError: checkpoints cannot be in a folder of this name.
      WorkdirError: it cannot be made, a run is training there, or not all processes see what
        process 0 wrote to it.
    """
    check_is_writable_name(workdir)
    path = epath.Path(workdir)
    heartbeat = Heartbeat(path, hosts.broadcast_from_first(secrets.randbits(32)))
    problem = None
    if hosts.is_first():
        try:
            heartbeat.is_new = not path.exists()
            path.mkdir(parents=True, exist_ok=True)
            heartbeat.take()
        except WorkdirError as error:
            problem = error
        except Exception as error:  # buckets raise kinds of their own
            problem = WorkdirError(
                f"{workdir}: cannot be made or written to ({reason(error)}); name a folder of yours"
            )
    if not hosts.all_agree(problem is None):
        raise problem or WorkdirError(f"{workdir}: cannot be used; process 0 says why")
    if not hosts.all_agree(heartbeat.is_seen()):
        heartbeat.close()
        raise WorkdirError(
            f"{workdir}: not the same folder for all processes; name one on a disk that "
            "their hosts share, or a gs:// path"
        )
    return heartbeat


def _boot() -> str:
    """Tells this host's kernel, since when it runs, from all others."""
    return _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else socket.gethostname()


def _age(content: dict) -> float:
    return time.time() - content["alive_unix_seconds"]


def _in_words(content: dict) -> str:
    if not content.get("training"):
        return "a run is starting or ending here"
    since = datetime.datetime.fromtimestamp(content["started_unix_seconds"])
    return (
        f"a run is training here since {since:%Y-%m-%d %H:%M:%S}, last seen "
        f"{max(0, _age(content)):.0f} s ago (process {content.get('process')} on "
        f"{content.get('host')})"
    )
