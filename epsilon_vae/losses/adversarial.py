"""The GAN terms of denoising trajectory matching (paper, Eq. 10, 11 and C.2).

The discriminator sees trajectories: `D(concat(x0 or x0_hat, x_t), t)`. What it compares is a choice
(`MATCHINGS`); the losses are non-saturating (Goodfellow et al. 2014) with R1 on real data, lazily
(Mescheder et al. 2018; Karras et al. 2020).
"""

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from epsilon_vae.diffusion.path import Process


class Denoising(NamedTuple):
    """One denoising of a batch, all that a matching may look at; images `[B, H, W, 3]`, t `[B]`."""

    x0: jax.Array
    noise: jax.Array
    t: jax.Array
    x_t: jax.Array
    prediction: jax.Array
    denoised: jax.Array
    step_fraction: jax.Array


class Match(NamedTuple):
    """Discriminator input: `real` or `fake`, concatenated to `context`, at time `t`."""

    real: jax.Array
    fake: jax.Array
    context: jax.Array
    t: jax.Array


def match_trajectory(process: Process, denoising: Denoising) -> Match:
    """x_t → x0 against x_t → x0_hat: the paper's (Eq. 10)."""
    del process
    return Match(denoising.x0, denoising.denoised, denoising.x_t, denoising.t)


def match_standard(process: Process, denoising: Denoising) -> Match:
    """x0 against x0_hat with neither x_t nor t, as in a VAE-GAN; the paper found it unstable."""
    del process
    empty = denoising.x_t[..., :0]
    return Match(denoising.x0, denoising.denoised, empty, jnp.zeros_like(denoising.t))


def match_step(process: Process, denoising: Denoising) -> Match:
    """x_t → x_{t - dt}, dt ~ U(0, t), true against predicted (Xiao et al. 2022)."""
    s = denoising.t * (1 - denoising.step_fraction)
    real = process.perturb(denoising.x0, denoising.noise, s)
    fake = process.move(denoising.x_t, denoising.prediction, denoising.t, s)
    return Match(real, fake, denoising.x_t, denoising.t)


MATCHINGS = {"trajectory": match_trajectory, "standard": match_standard, "step": match_step}
CONTEXT_CHANNELS = {"trajectory": 3, "standard": 0, "step": 3}


def generator_loss(fake_logits: jax.Array, gan: str = "non_saturating") -> jax.Array:
    """Mean of `softplus(-D(fake))`; of `-D(fake)` for 'hinge'."""
    if gan == "hinge":
        return -jnp.mean(fake_logits)
    return jnp.mean(jax.nn.softplus(-fake_logits))


def discriminator_loss(
    real_logits: jax.Array, fake_logits: jax.Array, gan: str = "non_saturating"
) -> jax.Array:
    """Mean of `softplus(-D(real))` plus mean of `softplus(D(fake))`.

    For 'hinge' half the means of `relu(1 - D(real))` and `relu(1 + D(fake))`, as VQGAN's.
    """
    if gan == "hinge":
        real, fake = jax.nn.relu(1 - real_logits), jax.nn.relu(1 + fake_logits)
        return 0.5 * (jnp.mean(real) + jnp.mean(fake))
    return jnp.mean(jax.nn.softplus(-real_logits)) + jnp.mean(jax.nn.softplus(fake_logits))


def adaptive_weight(reconstruction_grad: jax.Array, adversarial_grad: jax.Array) -> jax.Array:
    """How far the GAN's gradient is behind the other losses', at most 10,000 (Esser et al. 2021).

    Args:
      reconstruction_grad, adversarial_grad: of those losses, by the decoder's last kernel.
    """
    norms = jnp.linalg.norm(reconstruction_grad), jnp.linalg.norm(adversarial_grad)
    return jnp.clip(norms[0] / (norms[1] + 1e-4), 0.0, 1e4)


def r1_penalty(discriminate, real: jax.Array) -> jax.Array:
    """Half the squared gradient norm of the mean logit with respect to each real image, averaged.

    Args:
      discriminate: real images `[B, H, W, 3]` → patch logits `[B, h, w, 1]`.
      real: `[B, H, W, 3]`.
    """
    gradient = jax.grad(lambda x: jnp.sum(jnp.mean(discriminate(x), axis=(1, 2, 3))))(real)
    return 0.5 * jnp.mean(jnp.sum(gradient**2, axis=(1, 2, 3)))


@dataclasses.dataclass(frozen=True)
class TrajectoryGAN:
    """The discriminator with its losses, as the objective uses them.

    Attributes:
      discriminator: D(concat(real or fake, context), t) → patch logits.
      matching: what D compares, a key of `MATCHINGS`.
      gan: which losses, 'non_saturating' or 'hinge'.
      weight: of the generator's term; 0.5 in the paper.
      is_adaptive: the term is also multiplied by `adaptive_weight`, as VQGAN's.
      start_step, ramp_steps: both networks' terms are 0 before `start_step` and rise to their full
        weight over `ramp_steps`; 0 and 0 in the paper.
      r1_weight, r1_every_steps: R1 is computed in every so many steps, and weighted by as many.
    """

    discriminator: nn.Module
    matching: str = "trajectory"
    gan: str = "non_saturating"
    weight: float = 0.5
    is_adaptive: bool = False
    start_step: int = 0
    ramp_steps: int = 0
    r1_weight: float = 1.0
    r1_every_steps: int = 16

    def init(self, key: jax.Array, image_size: int) -> dict:
        """Initial parameters of the discriminator."""
        channels = 3 + CONTEXT_CHANNELS[self.matching]
        images = jnp.zeros((1, image_size, image_size, channels))
        return self.discriminator.init(key, images, jnp.zeros((1,)))["params"]

    def generator_loss(
        self, params: dict, process: Process, denoising: Denoising
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Term of the autoencoder's loss, to be weighted by `generator_weight`, and metrics."""
        match = MATCHINGS[self.matching](process, denoising)
        loss = generator_loss(self._logits(params, match.fake, match), self.gan)
        return loss, {"loss/adv": loss}

    def generator_weight(self, step: jax.Array) -> jax.Array:
        """Of the generator's term, before `adaptive_weight`."""
        return self._ramp(step) * self.weight

    def discriminator_loss(
        self, params: dict, process: Process, denoising: Denoising, step: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The discriminator's loss, and metrics; no gradient reaches the autoencoder."""
        match = MATCHINGS[self.matching](process, jax.lax.stop_gradient(denoising))
        real, fake = (self._logits(params, x, match) for x in (match.real, match.fake))
        loss = discriminator_loss(real, fake, self.gan)
        metrics = {"loss/disc": loss}
        if self.r1_weight > 0:
            r1 = jax.lax.cond(
                step % self.r1_every_steps == 0,
                lambda: r1_penalty(lambda x: self._logits(params, x, match), match.real),
                lambda: jnp.zeros(()),
            )
            # Scaled by the interval, so that the mean over steps is the penalty's own.
            metrics["loss/r1"] = self.r1_every_steps * r1
            loss += self.r1_weight * metrics["loss/r1"]
        return self._ramp(step) * loss, metrics

    def _logits(self, params: dict, images: jax.Array, match: Match) -> jax.Array:
        inputs = jnp.concatenate([images, match.context], axis=-1)
        return self.discriminator.apply({"params": params}, inputs, match.t)

    def _ramp(self, step: jax.Array) -> jax.Array:
        return jnp.clip((step + 1 - self.start_step) / max(self.ramp_steps, 1), 0.0, 1.0)


class NoGAN:
    """No adversary: no parameters, no loss."""

    is_adaptive = False

    def init(self, key: jax.Array, image_size: int) -> dict:
        """No parameters."""
        del key, image_size
        return {}

    def generator_loss(self, params, process, denoising):
        """Nothing to add."""
        del params, process, denoising
        return jnp.zeros(()), {}

    def generator_weight(self, step):
        """Of nothing."""
        del step
        return jnp.zeros(())

    def discriminator_loss(self, params, process, denoising, step):
        """Nothing to learn."""
        del params, process, denoising, step
        return jnp.zeros(()), {}
