"""What a latent diffusion model learns (Peebles & Xie 2023): the process's target, by its square.

Without the variational bound, as the paper trains its generators: a learned variance stays as it
was initialised or imported.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from epsilon_vae.models.generator import Generator


@dataclasses.dataclass(frozen=True)
class GeneratorObjective:
    """The loss, and what it is drawn with.

    Attributes:
      generator: network and process.
      sample_time: key → one training time t: `whole_steps` for DDPM, `logit_normal` for a flow.
      label_dropout: share of the labels that are dropped, for classifier-free guidance; DiT's 0.1.
    """

    generator: Generator
    sample_time: Callable[[jax.Array], jax.Array]
    label_dropout: float = 0.1

    def draw(self, key: jax.Array, shape: tuple[int, ...]) -> dict[str, jax.Array]:
        """All randomness of one step: `t` `[B]`, `noise` `[B, h, w, n_z]`, `is_dropped` `[B]`.

        Each image draws from its own key, folded from its place in the global batch.
        """

        def draw_one(index: jax.Array) -> dict[str, jax.Array]:
            time_key, noise_key, label_key = jax.random.split(jax.random.fold_in(key, index), 3)
            return {
                "t": self.sample_time(time_key),
                "noise": jax.random.normal(noise_key, shape[1:]),
                "is_dropped": jax.random.bernoulli(label_key, self.label_dropout),
            }

        return jax.vmap(draw_one)(jnp.arange(shape[0]))

    def loss(
        self, params: dict, latents: jax.Array, labels: jax.Array, draw: dict[str, jax.Array]
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The mean squared error of the noise or the velocity; with it, metrics.

        Args:
          params: of the network.
          latents: `[B, h, w, n_z]`.
          labels: `[B]`, in 0 … num_classes - 1.
          draw: this batch's part of `self.draw`.
        """
        generator, process, t = self.generator, self.generator.process, draw["t"]
        x_t = process.perturb(latents, draw["noise"], t)
        labels = jnp.where(draw["is_dropped"], generator.no_label, labels)
        prediction = generator.predict(params, process.network_input(x_t, t), t, labels)
        target = process.target(latents, draw["noise"])
        loss = jnp.mean((prediction[..., : latents.shape[-1]] - target) ** 2)
        return loss, {f"loss/{process.term}": loss}
