"""The GAN terms of denoising trajectory matching (paper, Eq. 10, 11 and C.2).

The discriminator sees trajectories: `D(concat(x0 or x0_hat, x_t), t)`. What it compares is a choice
(`MATCHINGS`), and so are the losses: non-saturating (Goodfellow et al. 2014), the paper's; hinge,
VQGAN's; or relativistic (Huang et al. 2024, R3GAN), for which real and fake are pairs by
construction. With R1 on real data (Mescheder et al. 2018; Karras et al. 2020).
"""

import dataclasses
from collections.abc import Callable
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
    x0_hat: jax.Array
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
    return Match(real=denoising.x0, fake=denoising.x0_hat, context=denoising.x_t, t=denoising.t)


def match_standard(process: Process, denoising: Denoising) -> Match:
    """x0 against x0_hat with neither x_t nor t, as in a VAE-GAN; the paper found it unstable."""
    del process
    empty = denoising.x_t[..., :0]
    return Match(
        real=denoising.x0, fake=denoising.x0_hat, context=empty, t=jnp.zeros_like(denoising.t)
    )


def match_step(process: Process, denoising: Denoising) -> Match:
    """x_t → x_{t - dt}, dt ~ U(0, t), true against predicted (Xiao et al. 2022).

    The prediction is Eq. 5 of the paper applied to x0_hat, with the same noise as the true one.
    """
    s = denoising.t * (1 - denoising.step_fraction)
    real, fake = (
        process.perturb(images, denoising.noise, s) for images in (denoising.x0, denoising.x0_hat)
    )
    return Match(real=real, fake=fake, context=denoising.x_t, t=denoising.t)


MATCHINGS = {"trajectory": match_trajectory, "standard": match_standard, "step": match_step}
CONTEXT_CHANNELS = {"trajectory": 3, "standard": 0, "step": 3}


def generator_loss(
    real_logits: jax.Array | None, fake_logits: jax.Array, gan: str = "non_saturating"
) -> jax.Array:
    """The mean of `softplus(-D(fake))`, or what `gan` says.

    Args:
      real_logits: of the same shape as `fake_logits`, pair by pair and patch by patch; only
        'relativistic' looks at them.
      fake_logits: `[B, h, w, 1]`.
      gan: 'hinge' is the mean of `-D(fake)`; 'relativistic' of `softplus(-(D(fake) - D(real)))`.
    """
    if gan == "hinge":
        return -jnp.mean(fake_logits)
    if gan == "relativistic":
        return jnp.mean(jax.nn.softplus(real_logits - fake_logits))
    return jnp.mean(jax.nn.softplus(-fake_logits))


def discriminator_loss(
    real_logits: jax.Array, fake_logits: jax.Array, gan: str = "non_saturating"
) -> jax.Array:
    """The mean of `softplus(-D(real))` plus the mean of `softplus(D(fake))`, or what `gan` says.

    2 log 2 = 1.386 at chance; for 'hinge' 1, and for 'relativistic' log 2 = 0.693.

    Args:
      real_logits, fake_logits: `[B, h, w, 1]`, of pairs.
      gan: 'hinge' is half the means of `relu(1 - D(real))` and `relu(1 + D(fake))`, as VQGAN's;
        'relativistic' is the mean of `softplus(-(D(real) - D(fake)))` (Huang et al. 2024, Eq. 2).
    """
    if gan == "hinge":
        real, fake = jax.nn.relu(1 - real_logits), jax.nn.relu(1 + fake_logits)
        return 0.5 * (jnp.mean(real) + jnp.mean(fake))
    if gan == "relativistic":
        return jnp.mean(jax.nn.softplus(fake_logits - real_logits))
    return jnp.mean(jax.nn.softplus(-real_logits)) + jnp.mean(jax.nn.softplus(fake_logits))


def adaptive_weight(reconstruction_grad: jax.Array, adversarial_grad: jax.Array) -> jax.Array:
    """How far the GAN's gradient is behind the other losses', at most 10,000 (Esser et al. 2021).

    Args:
      reconstruction_grad, adversarial_grad: of those losses, by the decoder's last kernel.
    """
    norms = jnp.linalg.norm(reconstruction_grad), jnp.linalg.norm(adversarial_grad)
    return jnp.clip(norms[0] / (norms[1] + 1e-4), 0.0, 1e4)


def r1_penalty(discriminate: Callable[[jax.Array], jax.Array], real: jax.Array) -> jax.Array:
    """R1 of patches: `P / 2 * |gradient of the mean logit|²`, averaged over the real images.

    The gradient is to the image alone. P, the number of patches, makes the penalty one of the same
    size at all resolutions: the gradient of a mean of P patches, each of which sees a place of its
    own, has a squared norm of one over P of a patch's. Of one logit it is StyleGAN2's, so that its
    weight is the gamma of `gamma / 2 * |gradient|²` (Mescheder et al. 2018, Eq. 9; Karras et al.
    2020).

    Args:
      discriminate: real images `[B, H, W, 3]` → patch logits `[B, h, w, 1]`.
      real: `[B, H, W, 3]`.
    """

    def mean_logits(images: jax.Array) -> tuple[jax.Array, int]:
        logits = discriminate(images)
        return jnp.sum(jnp.mean(logits, axis=(1, 2, 3))), logits[0].size

    gradient, patches = jax.grad(mean_logits, has_aux=True)(real)
    return 0.5 * patches * jnp.mean(jnp.sum(gradient**2, axis=(1, 2, 3)))


# Bins of t that the paired accuracy is told for: below 1/3, between, from 2/3 on.
TIME_BINS = ("disc_t0", "disc_t1", "disc_t2")


def pair_counts(real_logits: jax.Array, fake_logits: jax.Array, t: jax.Array) -> dict:
    """Means over the batch from which `paired_accuracy` works out the paired accuracy.

    By bin of t (`TIME_BINS`), 'pairs/…' is the share of the images that are in it, and 'ranked/…'
    of the pairs of patches that are in it and have `D(real) > D(fake)`. Means over parts of a batch
    are those of the batch.

    Args:
      real_logits, fake_logits: `[B, h, w, 1]`, of pairs.
      t: `[B]`.
    """
    ranked = jnp.mean(real_logits > fake_logits, axis=(1, 2, 3))
    time_bin = jnp.clip(jnp.floor(3 * t), 0, 2)
    counts = {}
    for number, name in enumerate(TIME_BINS):
        is_here = (time_bin == number).astype(jnp.float32)
        counts |= {f"pairs/{name}": jnp.mean(is_here), f"ranked/{name}": jnp.mean(is_here * ranked)}
    return counts


def paired_accuracy(metrics: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Metrics with 'accuracy/…' in the place of 'ranked/…': `mean[D(x0) > D(x0_hat)]` by bins of t.

    It is 0.5 at chance, and tells what the loss does not: whether the discriminator ranks the pairs
    at all. Of a bin without images it is that of all images, so that it is finite; 'pairs/…' is 0
    then, by which means over steps are to be weighted.

    Args:
      metrics: with those of `pair_counts`, or without.
    """
    metrics = dict(metrics)
    names = [name.removeprefix("pairs/") for name in metrics if name.startswith("pairs/")]
    ranked = {name: metrics.pop(f"ranked/{name}") for name in names}
    for name in names:
        pairs = metrics[f"pairs/{name}"]
        here = ranked[name] / jnp.where(pairs > 0, pairs, 1)
        metrics[f"accuracy/{name}"] = jnp.where(pairs > 0, here, sum(ranked.values()))
    return metrics


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrajectoryGAN:
    """The discriminator with its losses, as the objective uses them.

    Attributes:
      discriminator: D(concat(real or fake, context), t) → patch logits.
      weight: of the generator's term.
      r1_weight: of `r1_penalty`, StyleGAN2's gamma.
      matching: what D compares, a key of `MATCHINGS`.
      gan: which losses, 'non_saturating', 'hinge' or 'relativistic'.
      is_adaptive: the term is also multiplied by `adaptive_weight`, as VQGAN's.
      start_step, ramp_steps: the generator's term is 0 before `start_step` and rises to its full
        weight over `ramp_steps`; 0 and 0 in the paper.
      discriminator_start_step: D's own loss is 0 before, and has its full weight from there on: a
        ramp would change nothing, since Adam divides by the gradient's size.
      r1_every_steps: R1 is computed in every so many steps, and weighted by as many. More than 1
        saves time, and adds a spike of so many times its size to Adam's second moment, which then
        holds back the loss's own gradient (StyleGAN2 gives R1 moments of its own).
      context_scale: multiplies the context at D's input. x_t is mostly white noise, whose energy in
        the first layers hides that of the detail that real and fake differ in; below 1 it is heard
        less. The first layer could learn that, but slowly.
    """

    discriminator: nn.Module
    weight: float
    r1_weight: float
    matching: str = "trajectory"
    gan: str = "non_saturating"
    is_adaptive: bool = False
    start_step: int = 0
    ramp_steps: int = 0
    discriminator_start_step: int = 0
    r1_every_steps: int = 1
    context_scale: float = 1.0

    def init(self, key: jax.Array, image_size: int) -> dict:
        """Initial parameters of the discriminator."""
        channels = 3 + CONTEXT_CHANNELS[self.matching]
        images = jnp.zeros((1, image_size, image_size, channels))
        return self.discriminator.init(key, images, jnp.zeros((1,)))["params"]

    def generator_loss(
        self, params: dict, process: Process, denoising: Denoising
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Term of the autoencoder's loss, to be weighted by `generator_weight`, and metrics.

        The logits of real images, which a relativistic loss needs, are those of
        `discriminator_loss`: in one program the compiler computes them once.
        """
        match = MATCHINGS[self.matching](process, denoising)
        real = None
        if self.gan == "relativistic":
            real = jax.lax.stop_gradient(self.logits(params, match.real, match))
        loss = generator_loss(real, self.logits(params, match.fake, match), self.gan)
        return loss, {"loss/adv": loss}

    def generator_weight(self, step: jax.Array) -> jax.Array:
        """The weight of the generator's term, before `adaptive_weight`."""
        ramp = jnp.clip((step + 1 - self.start_step) / max(self.ramp_steps, 1), 0.0, 1.0)
        return ramp * self.weight

    def discriminator_loss(
        self, params: dict, process: Process, *, denoising: Denoising, step: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The discriminator's loss, and metrics; no gradient reaches the autoencoder.

        The metrics are the loss's terms before weighting, the mean logits, and `pair_counts`.

        Args:
          params: of the discriminator.
          process: of the decoder.
          denoising: the autoencoder's forward pass.
          step: of training.
        """
        match = MATCHINGS[self.matching](process, jax.lax.stop_gradient(denoising))
        real, fake = (self.logits(params, x, match) for x in (match.real, match.fake))
        loss = discriminator_loss(real, fake, self.gan)
        metrics = {"loss/disc": loss, "logits/real": jnp.mean(real), "logits/fake": jnp.mean(fake)}
        # By the denoising's own times: the standard matching shows D none.
        metrics |= pair_counts(real, fake, denoising.t)
        if self.r1_weight > 0:
            # Scaled by the interval, so that the mean over steps is the penalty's own.
            metrics["loss/r1"] = self.r1_every_steps * self._r1(params, match, step)
            loss += self.r1_weight * metrics["loss/r1"]
        return jnp.where(step >= self.discriminator_start_step, loss, 0.0), metrics

    def logits(self, params: dict, images: jax.Array, match: Match) -> jax.Array:
        """Patch logits `[B, h, w, 1]` of images `[B, H, W, 3]` in a match's context and times."""
        inputs = jnp.concatenate([images, self.context_scale * match.context], axis=-1)
        return self.discriminator.apply({"params": params}, inputs, match.t)

    def _r1(self, params: dict, match: Match, step: jax.Array) -> jax.Array:
        def penalty() -> jax.Array:
            return r1_penalty(lambda x: self.logits(params, x, match), match.real)

        if self.r1_every_steps == 1:
            return penalty()
        is_due = step % self.r1_every_steps == 0
        return jax.lax.cond(is_due, penalty, lambda: jnp.zeros(()))


class NoGAN:
    """No adversary: no parameters, no loss."""

    is_adaptive = False

    def init(self, key: jax.Array, image_size: int) -> dict:
        """No parameters."""
        del key, image_size
        return {}

    def generator_loss(self, params, process, denoising):
        """Adds nothing."""
        del params, process, denoising
        return jnp.zeros(()), {}

    def generator_weight(self, step):
        """A weight of 0."""
        del step
        return jnp.zeros(())

    def discriminator_loss(self, params, process, *, denoising, step):
        """Learns nothing."""
        del params, process, denoising, step
        return jnp.zeros(()), {}
