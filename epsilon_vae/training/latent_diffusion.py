"""The objective of latent diffusion (Peebles & Xie 2023): the process's target, squared error.

Without the variational bound, as the paper trains its models: nothing trains a variance.
"""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp

from epsilon_vae.losses.adversarial import NoGAN
from epsilon_vae.models.latent_diffusion import LatentDiffusion


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentDiffusionObjective:
    """The loss, and what it is drawn with; for `training.step`, as `objective.Objective`.

    Attributes:
      model: network and process.
      shape: of an image's latents, `[h, w, n_z]`.
      sample_time: key → one training time t: `whole_steps` for DDPM, `logit_normal` for a flow.
      label_dropout: share of the labels that are dropped, for classifier-free guidance.
      dtype: that the network computes in.
    """

    name: ClassVar[str] = "generator"
    adversary: ClassVar[NoGAN] = NoGAN()

    model: LatentDiffusion
    shape: tuple[int, int, int]
    sample_time: Callable[[jax.Array], jax.Array]
    label_dropout: float
    dtype: jnp.dtype = jnp.float32

    def init(self, key: jax.Array) -> tuple[dict, dict]:
        """Initial parameters `{'generator'}`, and no discriminator's."""
        return {"generator": self.model.init(key, self.shape)}, {}

    def trained(self, params: dict) -> dict:
        """All of them."""
        return params

    def batch_shapes(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of a batch: `latents`, float32 `[B, h, w, n_z]`, and `label`, int32 `[B]`.

        Latents have mean 0 and variance 1 by channel; a label of -1 is none, as are all where the
        model has no classes.
        """
        return {
            "latents": jax.ShapeDtypeStruct((batch_size, *self.shape), jnp.float32),
            "label": jax.ShapeDtypeStruct((batch_size,), jnp.int32),
        }

    def draw(self, key: jax.Array, batch_size: int) -> dict[str, jax.Array]:
        """All randomness of one step: `t` `[B]`, `noise` `[B, h, w, n_z]`, `is_dropped` `[B]`.

        Each image draws from its own key, folded from its place in the global batch.
        """

        def draw_one(index: jax.Array) -> dict[str, jax.Array]:
            time_key, noise_key, label_key = jax.random.split(jax.random.fold_in(key, index), 3)
            return {
                "t": self.sample_time(time_key),
                "noise": jax.random.normal(noise_key, self.shape),
                "is_dropped": jax.random.bernoulli(label_key, self.label_dropout),
            }

        return jax.vmap(draw_one)(jnp.arange(batch_size))

    def probes(self, batch_size: int) -> dict[str, jax.Array]:
        """No probes: there is one term."""
        del batch_size
        return {}

    def loss(
        self,
        params: dict,
        discriminator: dict,
        *,
        frozen: dict,
        batch: dict[str, jax.Array],
        draw: dict[str, jax.Array],
        step: jax.Array,
        probes: dict[str, jax.Array] | None = None,
    ) -> tuple[jax.Array, tuple[None, dict[str, jax.Array]]]:
        """The mean squared error of the noise or the velocity; with it, metrics.

        Args:
          params: as `init`'s.
          discriminator, frozen, step, probes: nothing depends on them.
          batch: as `batch_shapes`.
          draw: this batch's part of `self.draw`.
        """
        del discriminator, frozen, step, probes
        model, process, t = self.model, self.model.process, draw["t"]
        latents, label = batch["latents"], batch["label"]
        x_t = process.perturb(latents, draw["noise"], t)
        is_none = draw["is_dropped"] | (label < 0) | (model.no_label == 0)
        labels = jnp.where(is_none, model.no_label, label)
        x = process.network_input(x_t, t)
        prediction = model.predict(params["generator"], x, t=t, labels=labels)
        target = process.target(latents, draw["noise"])
        loss = jnp.mean((prediction[..., : latents.shape[-1]] - target) ** 2)
        return loss, (None, {f"loss/{process.loss_name}": loss})

    def discriminator_loss(
        self, discriminator: dict, denoising: None, step: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """No loss: there is no discriminator."""
        return self.adversary.discriminator_loss(
            discriminator, None, denoising=denoising, step=step
        )
