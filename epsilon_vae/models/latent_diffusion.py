"""Latent diffusion: a class-conditional network and the process that it generates latents by."""

import dataclasses

import jax
import jax.numpy as jnp

from epsilon_vae.diffusion.guidance import Guidance
from epsilon_vae.diffusion.path import DDPM, RectifiedFlow
from epsilon_vae.diffusion.sampler import image_keys, sample
from epsilon_vae.models.dit import ClassDiT


@dataclasses.dataclass(frozen=True)
class LatentDiffusion:
    """The pure functions that a latent diffusion model's objective and its users call.

    Latents are expected near zero mean and unit variance.

    Attributes:
      network: predicts the process's target, and perhaps a variance, from noisy latents.
      process: with a learned variance, the network has twice the latents' channels.
    """

    network: ClassDiT
    process: RectifiedFlow | DDPM

    @property
    def no_label(self) -> int:
        """The label that stands for none."""
        return self.network.num_classes

    def init(self, key: jax.Array, shape: tuple[int, int, int]) -> dict:
        """Initial parameters for latents `[h, w, n_z]`."""
        labels = jnp.zeros((1,), jnp.int32)
        return self.network.init(key, jnp.zeros((1, *shape)), jnp.zeros((1,)), labels)["params"]

    def predict(self, params: dict, x: jax.Array, *, t: jax.Array, labels: jax.Array) -> jax.Array:
        """The network's prediction of the process's target.

        Args:
          params: of the network.
          x: the process's input, `[B, h, w, n_z]`.
          t: times `[B]`.
          labels: `[B]`; `no_label` for none.
        """
        return self.network.apply({"params": params}, x, self.process.network_time(t), labels)

    def generate(
        self,
        params: dict,
        seed: int | jax.Array,
        *,
        indices: jax.Array,
        labels: jax.Array,
        shape: tuple[int, int, int],
        times: jax.Array,
        guidance: Guidance,
    ) -> jax.Array:
        """Latents `[B, *shape]`, each a function of seed, index and label, but for rounding.

        Args:
          params: of the network.
          seed: of all noise.
          indices: `[B]`, the numbers of the images, in 0 … 2³² - 1.
          labels: `[B]`.
          shape: of one image's latents, `[h, w, n_z]`.
          times: `[nfe + 1]`, falling from 1 to 0 (`diffusion.time.SPACINGS`).
          guidance: by the labels.
        """

        def predict(x: jax.Array, t: jax.Array, labels: jax.Array) -> jax.Array:
            return self.predict(params, x, t=t, labels=labels)

        guided = guidance.guide(predict, labels, self.no_label)
        keys = image_keys(seed, indices)
        return sample(self.process, guided, times=times, key=keys, shape=(len(indices), *shape))
