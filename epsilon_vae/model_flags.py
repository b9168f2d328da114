"""Flags of the autoencoder that a command uses: that of a run, or one that needs no training."""

from __future__ import annotations

import sys
from typing import Any

from absl import flags
from etils import epy

from epsilon_vae.command_line import UsageError, check_folder

with epy.lazy_imports():  # of what takes seconds, and is not needed for flags
    from epsilon_vae.inference import autoencoder, restoring

# `--help` of a command then shows these flags among its own.
flags.disclaim_key_flags()


class ModelFlags:
    """Defines `--workdir` and `--checkpoint_step`, or `--model`."""

    def __init__(self):
        self._workdir = flags.DEFINE_string("workdir", None, "Folder of a training run.")
        self._step = flags.DEFINE_integer(
            "checkpoint_step", None, "Checkpoint to use; the newest by default."
        )
        self._model = flags.DEFINE_string(
            "model",
            "small",
            "Where --workdir is not given: a model that comes with the package, a folder of "
            "save_pretrained, or OWNER/NAME of the Hugging Face Hub.",
        )

    def check(self) -> None:
        """Raises `UsageError` for flags that do not go together, or a folder that is not there."""
        check_folder(self._workdir)
        if self._workdir.value and self._model.present:
            raise UsageError("--workdir and --model both name a model; leave one of them out")
        if self._step.value is not None and not self._workdir.value:
            raise UsageError("--checkpoint_step is of a run; name its folder by --workdir")

    def open(self, **options: Any) -> autoencoder.Autoencoder:
        """The autoencoder; says on stderr which it is where no flag names one.

        Args:
          options: of `epsilon_vae.restore` and `epsilon_vae.load`.

        Raises:
          UserError: it cannot be restored.
        """
        if self._workdir.value:
            return restoring.restore(self._workdir.value, self._step.value, **options)
        name = self._model.value
        if not self._model.present:
            words = f"The model is {name}, which comes with this package"
            print(f"{words}; --workdir names that of a run", file=sys.stderr)
        return restoring.load(name, **options)
