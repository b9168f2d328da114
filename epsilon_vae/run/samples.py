"""The evaluation of a latent diffusion model during training: a picture of samples."""

import math
from typing import Any

import ml_collections
import numpy as np
from jax.sharding import Mesh

from epsilon_vae.data.latents import LatentBatches
from epsilon_vae.data.transforms import to_uint8
from epsilon_vae.diffusion.guidance import Guidance
from epsilon_vae.diffusion.time import SPACINGS
from epsilon_vae.inference.autoencoder import Autoencoder
from epsilon_vae.inference.latent_diffusion import LatentSampler
from epsilon_vae.inference.restoring import restore, step_that_made
from epsilon_vae.models.build import build_latent_diffusion
from epsilon_vae.run.batches import EncodedBatches
from epsilon_vae.run.captions import captioned


class SampleEvaluation:
    """A grid of samples of a run's parameters: always of the same noise, classes in turn.

    Args:
      config: of the run.
      mesh: of the run.
      batches: that it is trained on.

    Attributes:
      names: of the scores: there are none.

    Raises:
      CheckpointError: no autoencoder at `config.autoencoder.workdir`.
      DataError: the latents are of another.
    """

    names = ()

    def __init__(
        self, config: ml_collections.ConfigDict, mesh: Mesh, batches: LatentBatches | EncodedBatches
    ):
        self._config, self._mesh, self._batches = config, mesh, batches
        self._autoencoder: Autoencoder | None = None
        self._sampler: LatentSampler | None = None
        if workdir := config.autoencoder.workdir:
            if isinstance(batches, EncodedBatches):
                self._autoencoder = batches.autoencoder
            else:
                maker = step_that_made(batches.metadata.provenance, workdir)
                self._autoencoder = restore(workdir, mesh=mesh, preferred=maker, tile=0)
            batches.metadata.check_encoder(self._autoencoder.encoder_fingerprint())

    def latents(self, params: dict) -> dict[str, Any]:
        """Nothing: a checkpoint has the metadata of the latents that the run is trained on."""
        del params
        return {}

    def __call__(self, params: dict, step: int) -> tuple[dict[str, float], np.ndarray | None]:
        """No scores; and the grid, uint8, or None where no autoencoder is named.

        Captions are classes; the title is of the `step`.
        """
        if self._autoencoder is None:
            return {}, None
        config = self._config
        if self._sampler is None:
            self._sampler = LatentSampler(
                build_latent_diffusion(config),
                self._batches.metadata,
                times=SPACINGS[config.flow.spacing](config.flow.nfe),
                guidance=Guidance(config.eval.guidance),
                mesh=self._mesh,
                origin="the EMA",
            )
        indices = np.arange(config.eval.num_images)
        num_classes = config.model.latent_diffusion.num_classes
        labels = indices % num_classes if num_classes else np.full_like(indices, -1)
        latents = self._sampler(params["generator"], indices, labels=labels)
        images = to_uint8(self._autoencoder.decode(latents, config.autoencoder.nfe))
        picture = captioned(
            images,
            [f"class {x}" if num_classes else f"sample {i}" for i, x in enumerate(labels)],
            columns=math.ceil(math.sqrt(len(images))),
            title=f"step {step}, NFE {config.flow.nfe}, guidance {config.eval.guidance:g}",
        )
        return {}, picture
