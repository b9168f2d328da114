"""Checkpoints: all that resuming needs in one atomic step directory, written in the background.

The only file that imports Orbax. A checkpoint holds the train state (parameters, EMA, both
optimizers, discriminator, step), the data iterator's state, the config, and checksums of its files.
"""

import contextlib
import math
import shutil
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import traverse_util

from epsilon_vae import checksums
from epsilon_vae.config import ConfigError, check_types, from_dict
from epsilon_vae.errors import FailedError, UserError
from epsilon_vae.keys import goodness
from epsilon_vae.output import is_in_bucket
from epsilon_vae.parallel import hosts
from epsilon_vae.step_folders import (
    CheckpointError,
    DamagedError,
    check_is_writable_name,
    directory,
    load_newest,
)

OTHER_RUN = "another workdir"
# Fields of the state that a step has which was made of a file of weights.
WEIGHTS = ("params", "ema")


class OtherNetworkError(CheckpointError):
    """A checkpoint of other networks.

    Attributes:
      step_directory: of the checkpoint.
    """

    def __init__(self, message: str, step_directory: epath.Path):
        super().__init__(message)
        self.step_directory = step_directory


class SaveError(FailedError):
    """A checkpoint that could not be saved; the message says which, why, and how much is free."""


class Restored(NamedTuple):
    """A checkpoint: the state's tree, the data iterator's state, the config, its step.

    Where it `holds_weights_alone`, the state is a dictionary of these fields.
    """

    state: Any
    data: dict
    config: ml_collections.ConfigDict
    step: int


class Checkpointer:
    """Saves and restores the steps of one run; with several processes, all call alike.

    Args:
      workdir: of the run.
      keep: how many of the newest steps are kept.
      permanent_every_steps: multiples of this are never removed; 0 for none.
      keep_best: the beginning of a score's name, by which the best step is kept too; or 'none'.
    """

    def __init__(
        self,
        workdir: str,
        keep: int = 1,
        permanent_every_steps: int = 0,
        *,
        keep_best: str = "none",
    ):
        check_is_writable_name(workdir)
        self._workdir, self.directory = workdir, directory(workdir)
        self._is_trusted, self._keep_best = False, keep_best
        policies = ocp.checkpoint_managers
        kept = [policies.LatestN(keep)]
        if permanent_every_steps:
            kept.append(policies.EveryNSteps(permanent_every_steps))
        if keep_best != "none":
            best = {"get_metric_fn": self._goodness, "keep_checkpoints_without_metrics": False}
            kept.append(policies.BestN(n=1, **best))
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy(kept),
            best_fn=self._goodness if keep_best != "none" else None,
            create=True,
            async_options=ocp.options.AsyncOptions(
                post_finalization_callback=self._write_checksums
            ),
        )
        try:
            self._manager = ocp.CheckpointManager(self.directory, options=options)
        except OSError as error:
            raise CheckpointError(
                f"{self.directory}: no checkpoint can be written there ({error.strerror})"
            ) from error
        self._keep, self._saving, self._has_failed = keep, (0, 0), False

    def check_space(self, state: Any, num_saves: int) -> None:
        """Sees that the disk holds what will be saved: a step is written before one is removed.

        Args:
          state: a tree of arrays.
          num_saves: that are to come.

        Raises:
          CheckpointError: it does not. What a bucket holds is not known.
        """
        if is_in_bucket(self.directory):
            return
        size = _size(state)
        most = self._keep + 1 + (self._keep_best != "none")
        count = max(1, min(num_saves, most - len(self._manager.all_steps())))
        free = shutil.disk_usage(self.directory).free
        if not hosts.all_agree(free >= count * size):
            raise CheckpointError(
                f"{self.directory}: no space for {count} checkpoints of {in_words(size)}: "
                f"they need {in_words(count * size)}, the disk has {in_words(free)} left"
            )

    def best_step(self) -> int | None:
        """The saved step with the best score, where `keep_best` names one and it was measured."""
        return self._manager.best_step() if self._keep_best != "none" else None

    def is_best(self, scores: Mapping[str, float]) -> bool:
        """Whether `keep_best` names one of the scores, and no saved step has one as good."""
        if self._keep_best == "none" or not scores:
            return False
        best = self.best_step()
        return best is None or self._goodness(scores) > self._goodness(self._manager.metrics(best))

    def _goodness(self, scores: Mapping[str, float]) -> float:
        names = (name for name in scores if name.startswith(self._keep_best))
        name = next(names, None)
        return -math.inf if name is None else goodness(name, scores[name])

    def save(
        self,
        step: int,
        state: Any,
        *,
        data: dict,
        config: ml_collections.ConfigDict,
        scores: Mapping[str, float] = types.MappingProxyType({}),
    ) -> None:
        """Starts saving; returns once `state` is copied and may be donated.

        The first save of a run is waited for and read back: before, nobody knows that this folder
        gives back what it takes.

        Args:
          step: updates that the state has had.
          state: a tree of arrays.
          data: of the data iterator, as JSON holds it.
          config: of the run.
          scores: of the step, if it was evaluated.

        Raises:
          SaveError: it cannot be saved, or what was saved first cannot be read or differs.
        """
        if step in self._manager.all_steps():
            return
        with self._naming_what_failed():
            self._manager.wait_until_finished()
            self._saving = step, _size(state)
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    data=ocp.args.JsonSave(data),
                    config=ocp.args.JsonSave(config.to_dict()),
                ),
                metrics=dict(scores) or None,
                custom_metadata={"checksums": checksums.NAME},
                force=True,
            )
        if not self._is_trusted:
            self.wait()
            _check_is_saved(self.directory / str(step), state)
            self._is_trusted = True

    def _write_checksums(self) -> None:
        """Called by process 0 in the background, when all files are there and the step is not."""
        step, _ = self._saving
        temporary = self.directory.glob(f"{step}.orbax-checkpoint-tmp*")
        checksums.write(next(iter(temporary), self.directory / str(step)))

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

    def restore_newest(
        self, target: Any, check: Callable[[Any], None] = lambda state: None
    ) -> Restored | None:
        """The newest step that all processes can read, or None where there is no step.

        Steps that cannot be read are moved aside, to `checkpoints/damaged/`, once one before is
        read.

        Args:
          target: tree of `jax.ShapeDtypeStruct` with shardings, as the state shall be.
          check: of a state; raises `DamagedError` for one that is not to be taken.

        Raises:
          CheckpointError: the step does not fit `target`, or steps exist but none can be read.
        """

        def read(step_directory: epath.Path) -> Restored:
            restored = _restore(step_directory, target)
            check(restored.state)
            return restored

        newest = load_newest(self._workdir, read)
        if newest is None:
            return None
        self._move_aside(newest.damaged)
        self._is_trusted = True
        return newest.value

    def _move_aside(self, steps: list[int]) -> None:
        """Out of the way of the steps that will be saved under the same numbers."""
        if hosts.is_first():
            for step in steps:
                source = self.directory / str(step)
                try:
                    source.rename(_free_place(self.directory, step))
                except FileNotFoundError:
                    continue  # it was gone when it was looked at
                except OSError as error:
                    raise CheckpointError(
                        f"{source}: is damaged and cannot be moved aside ({error.strerror})"
                    ) from error
        if steps:
            hosts.barrier("damaged checkpoints moved aside")
            self._manager.reload()


def _free_place(parent: epath.Path, step: int) -> epath.Path:
    """A path in `damaged/`, or, where that is no folder, in `damaged-1/`."""
    folder, number = parent / "damaged", 0
    while folder.exists() and not folder.is_dir():
        number += 1
        folder = parent / f"damaged-{number}"
    folder.mkdir(exist_ok=True)
    number = 0
    while (place := folder / f"{step}-{number}").exists():
        number += 1
    return place


def _check_is_saved(step_directory: epath.Path, state: Any) -> None:
    """Raises `SaveError` unless all processes read back what they have, field by field."""
    fields = state if isinstance(state, dict) else vars(state)
    try:
        checksums.check(step_directory, jax.process_index(), jax.process_count())
        is_same = (step_directory / checksums.NAME).exists() and all(
            _is_equal(load_parts(step_directory, {name: _target(field)})[name], field)
            for name, field in fields.items()
            if jax.tree.leaves(field)
        )
        reason = "it is not what was written"
    except Exception as error:  # whatever it is, nothing is saved
        is_same, reason = False, " ".join(str(error).split())[:200]
    if not hosts.all_agree(is_same):
        raise SaveError(
            f"{step_directory}: cannot be read back ({reason}); nothing that this run saves would "
            "be of use: name another workdir, or see to the disk"
        )


def _target(tree: Any) -> Any:
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", here)),
        tree,
    )


def _is_equal(tree: Any, other: Any) -> bool:
    """Whether what this process holds of two trees' arrays is the same to the bit."""
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True)
    return all(
        _bytes(a) == _bytes(b)
        for x, y in pairs
        for a, b in zip(_shards(x), _shards(y), strict=True)
    )


def _shards(array: jax.Array | np.ndarray) -> list:
    is_on_devices = isinstance(array, jax.Array)
    return [x.data for x in array.addressable_shards] if is_on_devices else [array]


def _bytes(array: jax.Array | np.ndarray) -> bytes:
    return np.asarray(array).tobytes()


def _why_not_saved(error: Exception, path: epath.Path, size: int) -> str:
    """The reason in a line, and where there is a disk, what the step needs and what is left."""
    words = " ".join(str(error).split())
    for known in ("No space left on device", "Disk quota exceeded", "Read-only file system"):
        if known in words:
            words = known
    if is_in_bucket(path):
        return words[:300]
    free = shutil.disk_usage(path.parent).free
    return f"{words[:300]}; it needs up to {in_words(size)}, the disk has {in_words(free)} left"


def _size(state: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(state))


def in_words(size: int) -> str:
    """A size in bytes, as '31 MiB' or '6.3 GiB'."""
    return f"{size / 2**20:.0f} MiB" if size < 2**30 else f"{size / 2**30:.1f} GiB"


def holds_weights_alone(step_directory: epath.Path) -> bool:
    """Whether a step has neither optimizers nor a discriminator: training makes them."""
    return _are_weights_alone(_saved_shapes(step_directory))


def _are_weights_alone(saved: dict[str, tuple[int, ...]]) -> bool:
    return {path.split("/")[0] for path in saved} <= set(WEIGHTS)


def _restore(step_directory: epath.Path, target: Any) -> Restored:
    saved = _saved_shapes(step_directory)
    if _are_weights_alone(saved):
        target = {name: getattr(target, name) for name in WEIGHTS}
    _check_fits(step_directory, saved, target, within=("",), hint=OTHER_RUN)
    restored = _read(
        step_directory,
        state=ocp.args.StandardRestore(target),
        data=ocp.args.JsonRestore(),
        config=ocp.args.JsonRestore(),
    )
    step = int(step_directory.name)
    return Restored(
        state=restored["state"],
        data=_to_data(restored["data"]),
        config=_to_config(restored["config"]),
        step=step,
    )


def _read(step_directory: epath.Path, **items: Any) -> Any:
    """Items of a step.

    Without a manager, which would tidy up a directory that a run writes to, and without a
    checkpointer, at whose barrier the others would wait for a process that cannot read.
    """
    reader = ocp.CompositeCheckpointHandler()
    return reader.restore(step_directory, args=ocp.args.Composite(**items))


def load_config(step_directory: epath.Path) -> ml_collections.ConfigDict:
    """The config that the step was trained with.

    Raises:
      DamagedError: it is none.
    """
    return _to_config(_read(step_directory, config=ocp.args.JsonRestore())["config"])


def _to_data(values: Any) -> dict:
    if not isinstance(values, dict) or type(values.get("position", 0)) is not int:
        raise DamagedError(f"its position in the data is none: {str(values)[:100]}")
    return values


def _to_config(values: Any) -> ml_collections.ConfigDict:
    try:
        config = from_dict(values)
        check_types(config)
    except (ConfigError, TypeError, AttributeError, ValueError) as error:
        raise DamagedError(f"its config is none: {error}") from error
    return config


def load_data(step_directory: epath.Path) -> dict:
    """Loads what the step holds of the data: the position in its order, and what the data was."""
    return _to_data(_read(step_directory, data=ocp.args.JsonRestore())["data"])


def load_parts(step_directory: epath.Path, target: dict, hint: str = OTHER_RUN) -> dict:
    """Some parts of a saved train state, such as `{'ema': {'encoder': …}}`, and no other bytes.

    Args:
      step_directory: of `find_step`.
      target: path, as 'ema' or 'ema/encoder' → tree of `jax.ShapeDtypeStruct` with shardings.
      hint: what to do where a part does not fit, for the message.

    Raises:
      CheckpointError: a shape or a name differs.
    """
    saved, within = _saved_shapes(step_directory), tuple(f"{path}/" for path in target)
    _check_fits(step_directory, saved, target, within=within, hint=hint)
    tree = traverse_util.unflatten_dict(target, sep="/")
    args = ocp.args.PyTreeRestore(
        item=tree,
        restore_args=ocp.checkpoint_utils.construct_restore_args(tree),
        partial_restore=True,
    )
    return _read(step_directory, state=args)["state"]


def _check_fits(
    step_directory: epath.Path,
    saved: dict[str, tuple[int, ...]],
    target: Any,
    *,
    within: tuple[str, ...],
    hint: str,
) -> None:
    """Raises `CheckpointError` that names each leaf whose name or shape differs.

    Leaves that only the checkpoint has count where their path starts with one of `within`.
    """
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
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise OtherNetworkError(
            f"checkpoint {step_directory} does not fit the config, in {len(problems)} parameters: "
            f"{'; '.join(problems[:3])}{more}; take its own config, or {hint}",
            step_directory,
        )


def _saved_shapes(step_directory: epath.Path) -> dict[str, tuple[int, ...]]:
    return _shapes(ocp.PyTreeCheckpointHandler().metadata(step_directory / "state").tree)


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """`{'params/encoder/conv_in/kernel': (3, 3, 3, 64), …}`, alike for a state and its metadata."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in leaves
    }
