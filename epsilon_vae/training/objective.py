"""The losses of an autoencoder and their sum (paper, Eq. 1 and 9–11).

`L_autoencoder = L_flow + 0.5 L_LPIPS(x0_hat, x0) + 0.5 L_adv`, all on one forward pass at one
random t per image; and the discriminator's loss on that same pass.
"""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp

from epsilon_vae.diffusion.path import Process
from epsilon_vae.losses.adversarial import Denoising, NoGAN, TrajectoryGAN, adaptive_weight
from epsilon_vae.losses.perceptual import LPIPS
from epsilon_vae.models.autoencoder_model import AutoencoderModel
from epsilon_vae.parallel.sharding import shard_images

DISTANCES = {"l2": lambda error: jnp.mean(error**2), "l1": lambda error: jnp.mean(jnp.abs(error))}


@dataclasses.dataclass(frozen=True)
class PerceptualTerm:
    """`weight * LPIPS(x0_hat, x0)` for every t."""

    distance: LPIPS
    weight: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutoencoderObjective:
    """The parts that a config chooses; each is a plain object, none knows of the others.

    Attributes:
      networks: encoder and decoder.
      process: rectified flow, DDPM or direct.
      image_size: side of the training images.
      sample_time: key → one training time t.
      perceptual: the term on x0_hat, if any.
      adversary: the trajectory GAN, or `NoGAN`.
      distance: of the prediction from its target, a key of `DISTANCES`.
      encoder_frozen: the decoder alone is trained.
      dtype: that the networks compute in.
    """

    name: ClassVar[str] = "autoencoder"

    networks: AutoencoderModel
    process: Process
    image_size: int
    sample_time: Callable[[jax.Array], jax.Array]
    perceptual: PerceptualTerm | None
    adversary: TrajectoryGAN | NoGAN
    distance: str = "l2"
    encoder_frozen: bool = False
    dtype: jnp.dtype = jnp.float32

    def trained(self, params: dict) -> dict:
        """The networks of `params` that have gradients, moments and a moving average."""
        return {"decoder": params["decoder"]} if self.encoder_frozen else params

    def init(self, key: jax.Array) -> tuple[dict, dict]:
        """Initial parameters `{'encoder', 'decoder'}`, and the discriminator's."""
        networks_key, discriminator_key = jax.random.split(key)
        return (
            self.networks.init(networks_key, self.image_size),
            self.adversary.init(discriminator_key, self.image_size),
        )

    def batch_shapes(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of a batch: `image`, float32 `[B, H, W, 3]` in [-1, 1]."""
        return {"image": jax.ShapeDtypeStruct((batch_size, *self._image_shape), jnp.float32)}

    def draw(self, key: jax.Array, batch_size: int) -> dict[str, jax.Array]:
        """All randomness of one step, by what it is for.

        `t` and `step_fraction` `[B]`, `noise` `[B, H, W, 3]`, and `latent_noise`, as a bottleneck
        wants it.

        Each image draws from its own key, folded from its place in the global batch: the draw is
        the same however the batch is split over devices or accumulation.
        """

        def draw_one(index: jax.Array) -> dict[str, jax.Array]:
            image_key = jax.random.fold_in(key, index)
            time_key, noise_key, fraction_key = jax.random.split(image_key, 3)
            latent_key = jax.random.fold_in(image_key, 3)
            latent_shape = self.networks.latent_noise_shape(self._image_shape)
            return {
                "t": self.sample_time(time_key),
                "noise": jax.random.normal(noise_key, self._image_shape),
                "step_fraction": jax.random.uniform(fraction_key),
                "latent_noise": jax.random.normal(latent_key, latent_shape),
            }

        return jax.vmap(draw_one)(jnp.arange(batch_size))

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
    ) -> tuple[jax.Array, tuple[Denoising, dict[str, jax.Array]]]:
        """The autoencoder's loss; with it, the denoising for the discriminator, and metrics.

        Args:
          params: of encoder and decoder.
          discriminator: its parameters; no gradient is taken to them.
          frozen: LPIPS weights, under 'lpips'.
          batch: as `batch_shapes`; its images are x0.
          draw: this batch's part of `self.draw`.
          step: number of the step, for the GAN's ramp.
          probes: as `self.probes`; None for none.
        """
        probes = probes or {}
        process, images, t, noise = self.process, batch["image"], draw["t"], draw["noise"]
        latents, cost, metrics = self.networks.training_latents(
            params, images, draw["latent_noise"]
        )
        x_t = process.perturb(images, noise, t)

        def denoise(prediction: jax.Array) -> Denoising:
            x0_hat = process.predict_x0(x_t, prediction, t)
            return Denoising(
                x0=images,
                noise=noise,
                t=t,
                x_t=x_t,
                prediction=prediction,
                x0_hat=x0_hat,
                step_fraction=draw["step_fraction"],
            )

        def reconstruction_loss(denoising: Denoising) -> tuple[jax.Array, dict[str, jax.Array]]:
            return self._reconstruction_loss(frozen, denoising)

        def generator_loss(denoising: Denoising) -> tuple[jax.Array, dict[str, jax.Array]]:
            return self.adversary.generator_loss(discriminator, process, denoising)

        weight = self.adversary.generator_weight(step)
        x = process.network_input(x_t, t)
        if self.adversary.is_adaptive:
            prediction, by_last_layer = self.networks.predict_with_last_layer(
                params, x, t=t, latents=latents
            )
            grads = [
                by_last_layer(jax.grad(lambda p, loss=loss: loss(denoise(p))[0])(prediction))
                for loss in (reconstruction_loss, generator_loss)
            ]
            weight *= adaptive_weight(*jax.lax.stop_gradient(grads))
            metrics |= {"weight/adv": weight}
        else:
            prediction = self.networks.predict(params, x, t=t, latents=latents)
        denoising = denoise(prediction)
        reconstruction, reconstruction_metrics = self._reconstruction_loss(
            frozen, denoising, probes
        )
        probed = denoising._replace(x0_hat=denoising.x0_hat + probes.get("adv", 0.0))
        adversarial, adversarial_metrics = generator_loss(probed)
        loss = reconstruction + cost + weight * adversarial
        return loss, (denoising, metrics | reconstruction_metrics | adversarial_metrics)

    def probes(self, batch_size: int) -> dict[str, jax.Array]:
        """Zeros `[B, H, W, 3]` by term, each added to x0_hat where that term alone reads it.

        The loss's gradient to a probe is that term's weighted gradient at x0_hat, and needs no
        extra backward pass. The flow term depends on the prediction instead, so its probe is first
        converted by `prediction_change`.
        """
        names = [self.process.loss_name]
        names += ["lpips"] if self.perceptual else []
        names += ["adv"] if isinstance(self.adversary, TrajectoryGAN) else []
        shape = (batch_size, *self._image_shape)
        return {name: shard_images(jnp.zeros(shape)) for name in names}

    def _reconstruction_loss(
        self, frozen: dict, denoising: Denoising, probes: dict | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Distance of the prediction from its target, and the perceptual term; metrics."""
        probes, prediction, x0_hat = probes or {}, denoising.prediction, denoising.x0_hat
        if self.process.loss_name in probes:
            change = self.process.prediction_change(probes[self.process.loss_name], denoising.t)
            prediction = prediction + change
        target = self.process.target(denoising.x0, denoising.noise)
        loss = DISTANCES[self.distance](prediction - target)
        metrics = {f"loss/{self.process.loss_name}": loss}
        x0_hat = x0_hat + probes.get("lpips", 0.0)
        if self.perceptual is not None:
            distances = self.perceptual.distance(frozen["lpips"], x0_hat, denoising.x0)
            metrics["loss/lpips"] = jnp.mean(distances)
            loss += self.perceptual.weight * metrics["loss/lpips"]
        return loss, metrics

    def discriminator_loss(
        self, discriminator: dict, denoising: Denoising, step: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The discriminator's loss on the autoencoder's forward pass, and metrics."""
        return self.adversary.discriminator_loss(
            discriminator, self.process, denoising=denoising, step=step
        )

    @property
    def _image_shape(self) -> tuple[int, int, int]:
        return (self.image_size, self.image_size, 3)
