"""A trained latent diffusion model for use: numbers and classes of images in, latents out."""

import jax
import ml_collections
import numpy as np
from etils import epath
from jax.sharding import Mesh
from jax.typing import DTypeLike

from epsilon_vae import checkpoint
from epsilon_vae.config import check_kind
from epsilon_vae.data.latents import LatentMetadata
from epsilon_vae.data.transforms import check_finite
from epsilon_vae.diffusion.guidance import Guidance
from epsilon_vae.diffusion.time import SPACINGS
from epsilon_vae.inference.restoring import FIELDS, computing_in, one_of
from epsilon_vae.models.build import build_latent_diffusion, latents_shape
from epsilon_vae.models.latent_diffusion import LatentDiffusion
from epsilon_vae.parallel.batch import IMAGES_PER_DEVICE, share_images
from epsilon_vae.parallel.mesh import local_mesh, replicated
from epsilon_vae.step_folders import load


class LatentSampler:
    """Draws latents of images, each a function of (seed, index, label) alone.

    The devices of `mesh` share the images; all its processes call alike.

    Args:
      model: network and process.
      metadata: of the latents that it was trained on.
      times: `[nfe + 1]`, falling from 1 to 0.
      guidance: by the labels.
      mesh: of one process or all.
      group_size: images that a device works on together.
      progress: shows a bar while latents are generated.
      origin: of the parameters, which errors name: the checkpoint.
    """

    def __init__(
        self,
        model: LatentDiffusion,
        metadata: LatentMetadata,
        *,
        times: np.ndarray,
        guidance: Guidance,
        mesh: Mesh,
        group_size: int = IMAGES_PER_DEVICE,
        progress: bool = False,
        origin: str = "these parameters",
    ):
        self._origin = origin
        self._no_label, self._metadata, self._times = model.no_label, metadata, times
        shape = tuple(metadata.shape)

        def generate(whole: tuple, indices: jax.Array, labels: jax.Array) -> jax.Array:
            params, times, seed = whole
            return model.generate(
                params,
                seed,
                indices=indices,
                labels=labels,
                shape=shape,
                times=times,
                guidance=guidance,
            )

        bar = "generate" if progress else None
        self._generate = share_images(generate, mesh, group_size, bar=bar)

    def __call__(
        self, params: dict, indices: np.ndarray, *, labels: np.ndarray, seed: int = 0
    ) -> np.ndarray:
        """Float32 `[B, h, w, n_z]`, as the autoencoder's decoder takes them.

        Args:
          params: of the network.
          indices: `[B]`, numbers of the images.
          labels: `[B]`; -1 for none.
          seed: of all noise.

        Raises:
          NonFiniteError: latents that are NaN or infinite.
        """
        labels = np.where(labels < 0, self._no_label, labels).astype(np.int32)
        whole = params, self._times, np.uint32(seed % 2**32)
        latents = self._generate(whole, indices.astype(np.uint32), labels)
        check_finite(latents, f"{self._origin}: generated latents")
        return self._metadata.normalization.denormalize(latents)


class TrainedLatentDiffusion:
    """The parts of a latent diffusion model's checkpoint that generating takes.

    Attributes:
      model: network and process.
      params: of the network, by default the EMA.
      metadata: of the latents that it was trained on.
      config: that it was trained with.
      step: of the checkpoint.
      origin: its folder, which errors name.
      mesh, group_size, progress: of its samplers, as `restore_latent_diffusion` takes them.
    """

    def __init__(
        self,
        model: LatentDiffusion,
        params: dict,
        *,
        metadata: LatentMetadata,
        config: ml_collections.ConfigDict,
        step: int,
        origin: str,
        mesh: Mesh,
        group_size: int,
        progress: bool,
    ):
        self.model, self.params, self.metadata = model, params, metadata
        self.config, self.step, self.origin = config, step, origin
        self.mesh, self.group_size, self.progress = mesh, group_size, progress

    def sampler(self, nfe: int, guidance: Guidance) -> LatentSampler:
        """A sampler of `nfe` steps, at the config's spacing."""
        times = SPACINGS[self.config.flow.spacing](nfe)
        return LatentSampler(
            self.model,
            self.metadata,
            times=times,
            guidance=guidance,
            mesh=self.mesh,
            group_size=self.group_size,
            progress=self.progress,
            origin=self.origin,
        )


def restore_latent_diffusion(
    workdir: str,
    step: int | None = None,
    *,
    device: jax.Device | str | None = None,
    mesh: Mesh | None = None,
    weights: str = "ema",
    dtype: DTypeLike | None = None,
    group_size: int = IMAGES_PER_DEVICE,
    progress: bool = False,
    preferred: int | None = None,
) -> TrainedLatentDiffusion:
    """The latent diffusion model of a run, whole on each device; processes of a mesh call alike.

    Args:
      workdir: of the run, as given to `epsilon_vae.main`.
      step: of the checkpoint; None for the newest that can be read.
      device, mesh, weights, dtype, progress, preferred: as `restoring.restore`'s.
      group_size: images that a device generates together; another number may change a last digit.

    Raises:
      CheckpointError: no checkpoint there that can be read, or not of this step.
      ConfigError: as `restoring.restore`, or the run is of an autoencoder.
    """
    mesh = local_mesh(device=device, mesh=mesh)
    field = FIELDS[one_of("weights", weights, FIELDS)]

    def read(step_directory: epath.Path) -> TrainedLatentDiffusion:
        config = checkpoint.load_config(step_directory)
        check_kind(config, workdir, latent_diffusion=True)
        model = build_latent_diffusion(computing_in(config, dtype))
        shape = latents_shape(config)
        key = jax.random.key(0)
        target = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated(mesh)),
            jax.eval_shape(lambda k: model.init(k, shape), key),
        )
        path = f"{field}/generator"
        params = checkpoint.load_parts(step_directory, {path: target})[field]["generator"]
        metadata = LatentMetadata.of(checkpoint.load_data(step_directory)["latents"])
        return TrainedLatentDiffusion(
            model,
            params,
            metadata=metadata,
            config=config,
            step=int(step_directory.name),
            origin=str(step_directory),
            mesh=mesh,
            group_size=group_size,
            progress=progress,
        )

    return load(workdir, read, step=step, preferred=preferred)
