"""Where a run's checkpoints are, and which of them is taken: one way for all commands.

The newest that can be read, with a warning about those that cannot; a step that is asked for, or a
line that says why not. What is in a step's folder, `checkpoint.py` knows.
"""

import re
from collections.abc import Callable, Iterable
from typing import Generic, NamedTuple, TypeVar

import jax
from absl import logging
from etils import epath

from epsilon_vae import checksums
from epsilon_vae.checksums import DamagedError
from epsilon_vae.errors import UserError
from epsilon_vae.output import is_in_bucket
from epsilon_vae.parallel import hosts

T = TypeVar("T")


class CheckpointError(UserError):
    """A checkpoint that is missing, unreadable, or does not fit; the message says which and why."""


class Newest(NamedTuple, Generic[T]):
    """What was read of the newest step that can be read, and the steps before it that cannot."""

    value: T
    damaged: list[int]


def absolute(workdir: str) -> epath.Path:
    """The folder from the root of the disk, or of the bucket."""
    path = epath.Path(workdir)
    return path if path.is_absolute() else path.absolute()  # which would take gs:// for a name


def directory(workdir: str) -> epath.Path:
    """`workdir/checkpoints`.

    Raises:
      CheckpointError: no name, or one that the libraries that read arrays take for another.
    """
    if not workdir:
        raise CheckpointError("workdir = '': name a folder")
    path = absolute(workdir) / "checkpoints"
    name = str(path)
    is_text = name.encode(errors="replace").decode() == name
    if "\\" in name or not is_text or re.search(r"(?<!^)\b(gs|s3):/", name):
        raise CheckpointError(
            f"{workdir!r}: checkpoints cannot be in a folder with a backslash, with bytes that are "
            "no UTF-8 or with gs: in its path; give it another name"
        )
    return path


def check_is_writable_name(workdir: str) -> None:
    """Raises `CheckpointError` for a folder of which Orbax would commit steps that nobody can read.

    It looks for what it has written with a pattern that has the folder's whole path in it.
    """
    name = str(directory(workdir))
    if found := re.search(r"[][*?]", name):
        raise CheckpointError(
            f"{workdir!r}: checkpoints cannot be written below a folder with {found[0]} in its "
            "name; give it another, as lr_3e-4"
        )


def saved_steps(workdir: str) -> list[int]:
    """The steps of the checkpoints in a folder, rising; none where there is no folder.

    Raises:
      CheckpointError: the folder cannot be listed.
    """
    path = directory(workdir)
    try:
        found = list(path.iterdir()) if path.is_dir() else []
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be listed ({error.strerror})") from error
    folders = (folder for folder in found if re.fullmatch("0|[1-9][0-9]*", folder.name))
    return sorted(int(folder.name) for folder in folders if _is_committed(folder))


def _is_committed(folder: epath.Path) -> bool:
    """Whether a step was saved to the end: a disk renames its folder then, a bucket cannot."""
    return not is_in_bucket(folder) or (folder / "commit_success.txt").exists()


def newest_step(workdir: str) -> int | None:
    """The newest step of a run, as process 0 finds it; all processes call alike."""
    return _newest(workdir, without=())


def _newest(workdir: str, without: Iterable[int], preferred: int | None = None) -> int | None:
    """The newest step but those named, as process 0 finds it: a run that trains saves others."""
    steps = set(saved_steps(workdir)) - set(without)
    step = preferred if preferred in steps else max(steps, default=-1)
    step = hosts.broadcast_from_first(step + 1) - 1
    return None if step < 0 else step


def find_step(workdir: str, step: int | None = None) -> epath.Path:
    """The directory of a run's step, the newest if None, whether or not it can be read.

    Raises:
      CheckpointError: no run, no checkpoint, or not this step.
    """
    path = directory(workdir)
    if not path.is_dir():
        raise CheckpointError(f"{workdir}: no checkpoints in it; is it the workdir of a run?")
    steps = saved_steps(workdir)
    if not steps:
        raise CheckpointError(f"{path}: no checkpoint has been saved yet")
    if step is not None and step not in steps:
        raise CheckpointError(f"{path}: no step {step}; there are {steps}")
    return path / str(steps[-1] if step is None else step)


def load(
    workdir: str,
    read: Callable[[epath.Path], T],
    *,
    step: int | None = None,
    preferred: int | None = None,
) -> T:
    """What `read` makes of a step's folder; without a step, all processes call alike.

    Args:
      workdir: of the run.
      read: takes the folder; it raises `UserError` for what is no damage, which is passed on.
      step: the one to take, and no other; None for the newest that can be read.
      preferred: a step to take before the newest, if it is there.

    Raises:
      CheckpointError: no run, no checkpoint, not this step, or none that can be read.
    """
    if step is not None:
        return _load_step(find_step(workdir, step), read)
    newest = load_newest(workdir, read, preferred)
    if newest is None:
        folder = find_step(workdir)  # raises: no run, or no checkpoint
        raise CheckpointError(f"{folder}: process 0 does not see it; is the disk shared by all?")
    return newest.value


def load_newest(
    workdir: str, read: Callable[[epath.Path], T], preferred: int | None = None
) -> Newest[T] | None:
    """Reads the newest step that all processes can read; None where there is none. All call alike.

    A warning names the steps that cannot be read. Processes share the reading of checksums.

    Raises:
      CheckpointError: steps are there, and none can be read.
    """
    path, reasons = directory(workdir), {}
    share = jax.process_index(), jax.process_count()
    while (step := _newest(workdir, reasons, preferred)) is not None:
        value, reason = _try_to_read(path / str(step), read, *share)
        if hosts.all_agree(reason is None):
            for bad, why in reasons.items():
                logging.warning("Checkpoint %d is damaged and left out, for %d: %s", bad, step, why)
            return Newest(value, list(reasons))
        reasons[step] = reason or "another process cannot read it"
    if reasons:
        words = "; ".join(f"{step}: {reason}" for step, reason in reasons.items())
        raise CheckpointError(
            f"{path}: none of the checkpoints {list(reasons)} can be read ({words}); they are left "
            "as they are, and a run can start anew in another workdir"
        )
    return None


def _load_step(folder: epath.Path, read: Callable[[epath.Path], T]) -> T:
    value, reason = _try_to_read(folder, read)
    if reason is None:
        return value
    steps = [step for step in saved_steps(str(folder.parent.parent)) if str(step) != folder.name]
    good = [step for step in steps if _try_to_read(folder.parent / str(step), read)[1] is None]
    others = f"steps that can be read: {good}" if good else "no other step can be read"
    raise CheckpointError(f"{folder}: cannot be read ({reason}); {others}")


def _try_to_read(
    folder: epath.Path, read: Callable[[epath.Path], T], part: int = 0, parts: int = 1
) -> tuple[T | None, str | None]:
    """What `read` gives, or why the folder cannot be read."""
    try:
        if not folder.is_dir():
            raise DamagedError("it is no folder" if folder.exists() else "it is gone")
        checksums.check(folder, part, parts)
        return read(folder), None
    except DamagedError as error:
        return None, str(error)
    except UserError:
        raise
    except Exception as error:  # Orbax and tensorstore raise many kinds for broken files.
        words = " ".join(str(error).split())[:200]
        return None, words if isinstance(error, ValueError) else f"{type(error).__name__}: {words}"
