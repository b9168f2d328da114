"""A job that fills a folder and is resumed after a stop: what it is, and whether it is the same."""

import json
import pathlib
import zlib
from collections.abc import Callable, Mapping
from typing import Any

from epsilon_vae.errors import UserError
from epsilon_vae.output import OutputError, is_seen, write_whole
from epsilon_vae.parallel import hosts


class PlanError(UserError):
    """A job that cannot be started or resumed; the message says why."""


class OtherPlanError(PlanError):
    """A folder that holds another job's files; the message says which or how they differ."""


class ResumableFolder:
    """A folder that a job fills, and in which the same job is resumed after a stop.

    A JSON file in it holds the job's plan: what must be the same for it to be resumed.

    Args:
      folder: of the job.
      finished: name of the JSON file once the job is done.
      unfinished: its name before; None for the same.
      plan: name of a setting → its value.
      within: key of the plan in the file; "" where the settings are the file's own keys. In either
        case the file may hold other things too.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        finished: str,
        *,
        unfinished: str | None = None,
        plan: Mapping[str, Any],
        within: str = "",
    ):
        self._folder, self._within = folder, within
        self._finished, self._unfinished = folder / finished, folder / (unfinished or finished)
        self._plan = json.loads(json.dumps(plan))  # tuples are lists in a file

    @property
    def is_finished(self) -> bool:
        """Whether the file says that the job is done."""
        return self._finished.exists()

    def read(self) -> dict[str, Any]:
        """The file's content, which has the same plan; empty where there is no file.

        Raises:
          OtherPlanError: it has another plan or none, or cannot be read.
        """
        file = self._finished if self.is_finished else self._unfinished
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            before = content[self._within] if self._within else content
            if not (isinstance(content, dict) and isinstance(before, dict)):
                raise TypeError("not an object")
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise OtherPlanError(f"{file}: not written by epsilon_vae ({error!r})") from error
        for key, value in self._plan.items():
            if before.get(key) != value:
                raise OtherPlanError(
                    f"{file}: was started with {key} = {before.get(key)!r}, now it is {value!r}"
                )
        return content

    def start(
        self,
        content: Mapping[str, Any],
        *,
        same: Mapping[str, Any] | None = None,
        check: Callable[[dict[str, Any]], None] = lambda content: None,
    ) -> bool:
        """Begins or resumes the job: makes the folder and its file; all processes call alike.

        Args:
          content: of the file, if there is none yet.
          same: what all processes must agree on; None for the plan.
          check: called on process 0 with the file's content, empty where there is no file; raises
            `OtherPlanError` where the folder is another job's for a reason beyond the plan.

        Returns:
          Whether the job is finished, as process 0 finds it.

        Raises:
          OtherPlanError: the job in the folder has another plan.
          PlanError: processes have other plans, or do not see the same folder.
          OutputError: process 0 cannot make the folder or the file.
        """
        if not hosts.all_equal(json.dumps(self._plan if same is None else same)):
            raise PlanError("not the same flags, data or checkpoint for all processes")
        problem, is_finished = None, False
        if hosts.is_first():
            try:
                before = self.read()
                check(before)
                if not before:
                    self.save(content)
                is_finished = self.is_finished
            except (OutputError, PlanError) as error:
                problem = error
        if not hosts.all_agree(problem is None):
            raise problem or PlanError(f"{self._folder}: cannot be resumed; process 0 says why")
        is_finished = bool(hosts.broadcast_from_first(int(is_finished)))
        file = self._finished if is_finished else self._unfinished
        checksum = hosts.broadcast_from_first(_checksum(file) if hosts.is_first() else 0)
        if not hosts.all_agree(is_seen(lambda: file.exists() and _checksum(file) == checksum)):
            raise PlanError(
                f"{self._folder}: not the same folder for all processes; it must be on a disk that "
                "their hosts share"
            )
        return is_finished

    def save(self, content: Mapping[str, Any]) -> None:
        """Writes the file of a job that is not finished."""
        self._write(self._unfinished, self._finished, content)

    def finish(self, content: Mapping[str, Any]) -> None:
        """Writes the file of a job that is done."""
        self._write(self._finished, self._unfinished, content)

    @staticmethod
    def _write(file: pathlib.Path, other: pathlib.Path, content: Mapping[str, Any]) -> None:
        write_whole(file, json.dumps(content, indent=1).encode())
        if other != file:
            other.unlink(missing_ok=True)


def _checksum(path: pathlib.Path) -> int:
    return zlib.crc32(path.read_bytes())
