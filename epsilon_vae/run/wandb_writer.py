"""Writes a run's numbers to Weights & Biases, with the methods of clu's `MetricWriter`."""

import os
import secrets
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from epsilon_vae.errors import UserError, reason
from epsilon_vae.output import is_in_bucket, write_whole


class WandbError(UserError):
    """W&B that cannot be used; the message says why."""


def check_is_installed() -> None:
    """Raises `WandbError` where the package is missing."""
    try:
        import wandb  # noqa: F401
    except ImportError as error:
        raise WandbError("wandb is not installed; pip install -e '.[wandb]'") from error


class WandbWriter:
    """One run of W&B for one workdir, also when it is resumed: `wandb_id.txt` has its name there.

    `WANDB_MODE`, `WANDB_PROJECT` and `WANDB_ENTITY` are W&B's own settings.

    Args:
      workdir: of the run.

    Raises:
      WandbError: it does not start, as without a key.
    """

    def __init__(self, workdir: epath.Path):
        import wandb

        self._wandb, path = wandb, workdir / "wandb_id.txt"
        name = path.read_text().strip() if path.exists() else secrets.token_hex(4)
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "epsilon-vae"),
                id=name,
                name=workdir.name,
                resume="allow",
                dir=None if is_in_bucket(workdir) else str(workdir),
                settings=wandb.Settings(silent=True, console="off"),
            )
        except (wandb.Error, OSError) as error:
            raise WandbError(f"W&B does not start: {reason(error)}") from error
        write_whole(path, name.encode())

    @property
    def place(self) -> str:
        """Where the run is to be seen: an address, or what sends it there."""
        folder = self._run.settings.sync_dir
        return f"offline; to send it: wandb sync {folder}" if self._run.offline else self._run.url

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes numbers of a step."""
        self._run.log(dict(scalars), step=step)

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Writes uint8 images `[N, H, W, C]` of a step."""
        self._run.log(
            {name: [self._wandb.Image(x) for x in batch] for name, batch in images.items()},
            step=step,
        )

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Does nothing: the config, which is the only text, comes by `write_hparams`."""

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        """Writes the config."""
        self._run.config.update(dict(hparams), allow_val_change=True)

    def close(self) -> None:
        """Ends the run, once W&B has all."""
        self._run.finish()
