"""The two kinds of runs: what an autoencoder's and a latent diffusion model's do differently."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import ml_collections
import numpy as np
from jax.sharding import Mesh

from epsilon_vae.config import is_latent_diffusion
from epsilon_vae.run.batches import Batches, open_images, open_latents
from epsilon_vae.run.samples import SampleEvaluation
from epsilon_vae.run.validation import HeldOutEvaluation


class Evaluation(Protocol):
    """Evaluates a run's EMA parameters while it trains.

    Attributes:
      names: of the scores.
    """

    names: tuple[str, ...]

    def __call__(self, params: dict, step: int) -> tuple[dict[str, float], np.ndarray | None]:
        """Scores by name, and a picture that names the step, uint8 `[H, W, 3]`, or None."""

    def latents(self, params: dict) -> dict[str, Any]:
        """What the last checkpoint says of the latents of these parameters, as JSON holds it."""


class Kind(NamedTuple):
    """Holds what differs between the kinds of runs, besides the objective.

    Attributes:
      open_batches: (config, indices of this process in a batch) → batches.
      open_evaluation: (config, mesh, batches) → evaluation.
    """

    open_batches: Callable[[ml_collections.ConfigDict, np.ndarray], Batches]
    open_evaluation: Callable[[ml_collections.ConfigDict, Mesh, Batches], Evaluation]


AUTOENCODER = Kind(
    open_images, lambda config, mesh, batches: HeldOutEvaluation(config, mesh, batches.source)
)
LATENT_DIFFUSION = Kind(open_latents, SampleEvaluation)


def kind_of(config: ml_collections.ConfigDict) -> Kind:
    """The kind of run that a config is of."""
    return LATENT_DIFFUSION if is_latent_diffusion(config) else AUTOENCODER
