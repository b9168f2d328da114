"""Saves a run that fails for a reason that is not its own, as a worker that was killed."""

import contextlib
from typing import Any

import jax
import ml_collections

from epsilon_vae.checkpoint import Checkpointer
from epsilon_vae.errors import FailedError, UserError
from epsilon_vae.run.monitor import MetricsWindow
from epsilon_vae.training.state import TrainState


class LastStep(contextlib.AbstractContextManager):
    """The last whole step, which is saved where the block raises after the first step.

    Not where the error is of the state or of saving (`FloatingPointError`, `FailedError`), nor by
    one of several processes, since all save together.

    Args:
      checkpointer: of the run.
      config: of the run.
      window: of metrics, which are to be finite.

    Raises:
      FailedError: after the first step, instead of errors of data, disks and buckets.
    """

    def __init__(
        self, checkpointer: Checkpointer, config: ml_collections.ConfigDict, window: MetricsWindow
    ):
        self._checkpointer, self._config, self._window = checkpointer, config, window
        self._step, self._state, self._data = 0, None, {}

    def done(self, step: int, state: TrainState, data: dict[str, Any]) -> None:
        """Takes note of a step: the state after it, and where the data is to be resumed."""
        self._step, self._state, self._data = step, state, data

    def __exit__(self, kind, error, trace):
        is_own = isinstance(error, FloatingPointError | FailedError)
        if self._state is None or is_own or not isinstance(error, Exception):
            return
        what = self._save()
        if isinstance(error, UserError | OSError):
            raise FailedError(
                f"after step {self._step}: {error}. {what}; to resume, run the same command again"
            ) from error
        error.add_note(what)

    def _save(self) -> str:
        """Saves, if that can be; says which step is."""
        is_donated = any(x.is_deleted() for x in jax.tree.leaves(self._state))
        if is_donated or jax.process_count() > 1:
            return "The checkpoint before stays"
        self._window.check_state(self._step, self._state)
        self._checkpointer.save(self._step, self._state, data=self._data, config=self._config)
        self._checkpointer.wait()
        return f"Step {self._step} is saved"
