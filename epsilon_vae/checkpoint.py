"""Checkpoints: all that resuming needs in one atomic step directory, written in the background.

The only file that imports Orbax. A checkpoint holds the train state (parameters, EMA, both
optimizers, discriminator, step), the data iterator's state, and the config.
"""

import contextlib
import shutil
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from flax import traverse_util

from epsilon_vae.config import from_dict
from epsilon_vae.errors import FailedError, UserError
from epsilon_vae.output import is_in_bucket
from epsilon_vae.parallel import hosts

OTHER_RUN = "another workdir"


class CheckpointError(UserError):
    """A checkpoint that is missing, unreadable, or does not fit; the message says which and why."""


class SaveError(FailedError):
    """A checkpoint that could not be saved; the message says which, why, and the disk's room."""


class Restored(NamedTuple):
    """A checkpoint: the state's tree, the data iterator's state, the config, its step."""

    state: Any
    data: dict
    config: ml_collections.ConfigDict
    step: int


def absolute(workdir: str) -> epath.Path:
    """The folder from the root of the disk, or of the bucket."""
    path = epath.Path(workdir)
    return path if path.is_absolute() else path.absolute()  # which would take gs:// for a name


def directory(workdir: str) -> epath.Path:
    """`workdir/checkpoints`."""
    return absolute(workdir) / "checkpoints"


class Checkpointer:
    """Saves and restores the steps of one run; with several processes, all call alike.

    Args:
      workdir: of the run.
      keep: how many of the newest steps are kept.
      permanent_every_steps: multiples of this are never removed; 0 for none.
    """

    def __init__(self, workdir: str, keep: int = 1, permanent_every_steps: int = 0):
        self.directory = directory(workdir)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, keep_period=permanent_every_steps or None, create=True
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options)
        self._keep, self._saving, self._has_failed = keep, (0, 0), False

    def check_room(self, state: Any, num_saves: int) -> None:
        """Sees that the disk holds what will be saved: a step is written before one is removed.

        Args:
          state: a tree of arrays.
          num_saves: that are to come.

        Raises:
          CheckpointError: it does not. What a bucket holds is not known.
        """
        if is_in_bucket(self.directory):
            return
        size = _bytes(state)
        count = max(1, min(num_saves, self._keep + 1 - len(self._manager.all_steps())))
        room = shutil.disk_usage(self.directory).free
        if not hosts.all_agree(room >= count * size):
            raise CheckpointError(
                f"{self.directory}: no room for {count} checkpoints of {_in_words(size)}: "
                f"they need {_in_words(count * size)}, the disk has {_in_words(room)} left"
            )

    def save(self, step: int, state: Any, *, data: dict, config: ml_collections.ConfigDict) -> None:
        """Starts saving; returns once `state` is copied and may be donated.

        Args:
          step: updates that the state has had.
          state: a tree of arrays.
          data: of the data iterator, as JSON holds it.
          config: of the run.
        """
        if step in self._manager.all_steps():
            return
        with self._naming_what_failed():
            self._manager.wait_until_finished()
            self._saving = step, _bytes(state)
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    data=ocp.args.JsonSave(data),
                    config=ocp.args.JsonSave(config.to_dict()),
                ),
                force=True,
            )

    def check(self) -> None:
        """Raises `SaveError` if a save that was under way has failed."""
        with self._naming_what_failed():
            self._manager.check_for_errors()

    def wait(self) -> None:
        """Returns once what was saved last is on the disk, or raises `SaveError`."""
        with self._naming_what_failed():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and lets go of the directory."""
        with contextlib.suppress(Exception) if self._has_failed else self._naming_what_failed():
            self._manager.close()

    @contextlib.contextmanager
    def _naming_what_failed(self) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # Orbax, tensorstore and clouds raise many kinds
            self._has_failed = True
            step, size = self._saving
            path = self.directory / str(step)
            raise SaveError(f"{path}: not saved: {_why_not_saved(error, path, size)}") from error

    def restore_newest(self, target: Any) -> Restored | None:
        """The newest step that all processes can read, or None where there is no step.

        Where a step cannot be read, the one before is taken, with a warning, and once that is
        read the bad one is moved aside, to `checkpoints/damaged/`.

        Args:
          target: tree of `jax.ShapeDtypeStruct` with shardings, as the state shall be.

        Raises:
          CheckpointError: the step does not fit `target`, or steps exist but none can be read.
        """
        bad_steps: list[int] = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            restored = self._try_to_restore(step, target)
            if hosts.all_agree(restored is not None):
                self._move_aside(bad_steps)
                return restored
            bad_steps.append(step)
        if bad_steps:
            raise CheckpointError(
                f"{self.directory}: none of the checkpoints {bad_steps} can be read; they are left "
                "as they are. To start anew, take another workdir"
            )
        return None

    def _try_to_restore(self, step: int, target: Any) -> Restored | None:
        """Restores a step, without a barrier; None, with a warning, where it cannot be read."""
        try:
            return _restore(self.directory / str(step), target)
        except CheckpointError:
            raise
        except Exception as error:  # Orbax and tensorstore raise many kinds for broken files.
            reason = str(error).splitlines()[0]
            logging.warning("Checkpoint %d is damaged and left out: %s", step, reason)
            return None

    def _move_aside(self, steps: list[int]) -> None:
        """Out of the way of the steps that will be saved under the same numbers."""
        if hosts.is_first():
            for step in steps:
                damaged = self.directory / "damaged"
                damaged.mkdir(exist_ok=True)
                number = len(list(damaged.iterdir()))
                (self.directory / str(step)).rename(damaged / f"{step}-{number}")
        if steps:
            hosts.barrier("damaged checkpoints moved aside")
            self._manager.reload()


def _why_not_saved(error: Exception, path: epath.Path, size: int) -> str:
    """The reason in a line, and where there is a disk, what the step needs and what is left."""
    words = " ".join(str(error).split())
    for known in ("No space left on device", "Disk quota exceeded", "Read-only file system"):
        if known in words:
            words = known
    if is_in_bucket(path):
        return words[:300]
    room = shutil.disk_usage(path.parent).free
    return f"{words[:300]}; it needs up to {_in_words(size)}, the disk has {_in_words(room)} left"


def _bytes(state: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(state))


def _in_words(size: int) -> str:
    return f"{size / 2**20:.0f} MiB" if size < 2**30 else f"{size / 2**30:.1f} GiB"


def _restore(step_directory: epath.Path, target: Any) -> Restored:
    _check_fits(step_directory, target, ("",), OTHER_RUN)
    restored = _read(
        step_directory,
        state=ocp.args.StandardRestore(target),
        data=ocp.args.JsonRestore(),
        config=ocp.args.JsonRestore(),
    )
    step = int(step_directory.name)
    return Restored(
        state=restored["state"],
        data=restored["data"],
        config=from_dict(restored["config"]),
        step=step,
    )


def _read(step_directory: epath.Path, **items: Any) -> Any:
    """Items of a step.

    Without a manager, which would tidy up a directory that a run writes to, and without a
    checkpointer, at whose barrier the others would wait for a process that cannot read.
    """
    reader = ocp.CompositeCheckpointHandler()
    return reader.restore(step_directory, args=ocp.args.Composite(**items))


def saved_steps(workdir: str) -> list[int]:
    """The steps of the checkpoints in a folder, rising; none where there is no folder."""
    path = directory(workdir)
    return sorted(ocp.utils.checkpoint_steps(path)) if path.is_dir() else []


def newest_step(workdir: str, preferred: int | None = None) -> int | None:
    """The newest step of a run, as process 0 finds it; all processes call alike.

    A run that still trains may save another before the next process looks.

    Args:
      workdir: of the run.
      preferred: a step to take instead, if it is there.

    Returns:
      The step; None where there is no checkpoint, which `find_step` then says.
    """
    steps = saved_steps(workdir)
    step = preferred if preferred in steps else max(steps, default=-1)
    step = hosts.broadcast_from_first(step + 1) - 1
    return None if step < 0 else step


def newest_readable_step(workdir: str) -> int | None:
    """The newest step, if all processes can read its arrays; None otherwise. All call alike."""
    step = newest_step(workdir)
    if step is None:
        return None
    is_readable = True
    try:
        folder = find_step(workdir, step)
        handler = ocp.PyTreeCheckpointHandler()
        arrays = jax.tree.map(
            lambda _: ocp.RestoreArgs(restore_type=np.ndarray),
            dict(handler.metadata(folder / "state").tree),
        )
        handler.restore(folder / "state", args=ocp.args.PyTreeRestore(restore_args=arrays))
        load_config(folder)
    except Exception:  # Orbax and tensorstore raise many kinds for broken files.
        is_readable = False
    return step if hosts.all_agree(is_readable) else None


def find_step(workdir: str, step: int | None = None) -> epath.Path:
    """The directory of a run's step, the newest if None.

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


def load_config(step_directory: epath.Path) -> ml_collections.ConfigDict:
    """The config that the step was trained with."""
    return from_dict(_read(step_directory, config=ocp.args.JsonRestore())["config"])


def load_data(step_directory: epath.Path) -> dict:
    """Loads what the step holds of the data: the position in its order, and what the data was."""
    return _read(step_directory, data=ocp.args.JsonRestore())["data"]


def load_parts(step_directory: epath.Path, target: dict, hint: str = OTHER_RUN) -> dict:
    """Some parts of a saved train state, such as `{'ema': {'encoder': …}}`, and no other bytes.

    Args:
      step_directory: of `find_step`.
      target: path, as 'ema' or 'ema/encoder' → tree of `jax.ShapeDtypeStruct` with shardings.
      hint: what to do where a part does not fit, for the message.

    Raises:
      CheckpointError: a shape or a name differs.
    """
    _check_fits(step_directory, target, tuple(f"{path}/" for path in target), hint)
    tree = traverse_util.unflatten_dict(target, sep="/")
    args = ocp.args.PyTreeRestore(
        item=tree,
        restore_args=ocp.checkpoint_utils.construct_restore_args(tree),
        partial_restore=True,
    )
    return _read(step_directory, state=args)["state"]


def _check_fits(
    step_directory: epath.Path, target: Any, within: tuple[str, ...], hint: str
) -> None:
    """Raises `CheckpointError` that names each leaf whose name or shape differs.

    Leaves that only the checkpoint has count where their path starts with one of `within`.
    """
    saved = _shapes(ocp.PyTreeCheckpointHandler().metadata(step_directory / "state").tree)
    wanted = _shapes(target)
    problems = []
    for path in sorted(wanted.keys() | {path for path in saved if path.startswith(within)}):
        if path not in saved:
            problems.append(f"{path} {wanted[path]} is not in the checkpoint")
        elif path not in wanted:
            problems.append(f"{path} {saved[path]} is only in the checkpoint")
        elif saved[path] != wanted[path]:
            problems.append(f"{path} is {saved[path]} in the checkpoint, {wanted[path]} here")
    if problems:
        lines = "\n  ".join(problems)
        raise CheckpointError(
            f"checkpoint {step_directory} does not fit the config, in "
            f"{len(problems)} parameters (take its own config, or {hint}):\n  {lines}"
        )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """`{'params/encoder/conv_in/kernel': (3, 3, 3, 64), …}`, alike for a state and its metadata."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in leaves
    }
