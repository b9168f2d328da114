"""Builds the losses, the optimizers and the whole step from a config."""

import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from epsilon_vae.config import is_latent_diffusion
from epsilon_vae.diffusion.time import TIME_SAMPLINGS
from epsilon_vae.losses.adversarial import NoGAN, TrajectoryGAN
from epsilon_vae.losses.perceptual import LPIPS
from epsilon_vae.models.build import (
    build_latent_diffusion,
    build_networks,
    build_process,
    latents_shape,
)
from epsilon_vae.models.discriminator import DISCRIMINATORS
from epsilon_vae.pretrained import registry
from epsilon_vae.training.latent_diffusion import LatentDiffusionObjective
from epsilon_vae.training.objective import AutoencoderObjective, PerceptualTerm
from epsilon_vae.training.optimizer import adam, learning_rate
from epsilon_vae.training.step import Objective, TrainStep


def build_objective(config: ml_collections.ConfigDict) -> Objective:
    """The losses; a term whose weight is 0 is left out, and its network with it."""
    if is_latent_diffusion(config):
        return LatentDiffusionObjective(
            model=build_latent_diffusion(config),
            shape=latents_shape(config),
            sample_time=TIME_SAMPLINGS[config.flow.time_sampling],
            label_dropout=config.loss.label_dropout,
            dtype=jnp.dtype(config.dtype),
        )
    dtype, loss = jnp.dtype(config.dtype), config.loss
    perceptual = None
    if loss.lpips_weight > 0:
        perceptual = PerceptualTerm(LPIPS(loss.lpips_net, dtype), loss.lpips_weight)
    adversary = NoGAN()
    if loss.adv_weight > 0:
        discriminator = config.model.discriminator
        adversary = TrajectoryGAN(
            discriminator=DISCRIMINATORS[discriminator.name](discriminator.channels),
            matching=loss.matching,
            gan=loss.gan,
            weight=loss.adv_weight,
            is_adaptive=loss.adaptive_weight,
            start_step=loss.adv_start_step,
            ramp_steps=loss.adv_ramp_steps,
            discriminator_start_step=loss.disc_start_step,
            r1_weight=loss.r1_weight,
            r1_every_steps=loss.r1_every_steps,
            context_scale=discriminator.context_scale,
        )
    return AutoencoderObjective(
        networks=build_networks(config),
        process=build_process(config),
        image_size=config.data.resolution,
        sample_time=TIME_SAMPLINGS[config.flow.time_sampling],
        perceptual=perceptual,
        adversary=adversary,
        distance=loss.distance,
        encoder_frozen=config.model.encoder.frozen,
        dtype=dtype,
    )


def frozen_inputs(config: ml_collections.ConfigDict) -> dict:
    """Returns what the step reads and never changes: `seed`, uint32, and LPIPS's weights, if any.

    As arguments of the compiled step: another seed compiles nothing, and XLA does not fold
    convolutions over the weights for minutes.
    """
    frozen = {"seed": np.uint32(config.seed)}
    if config.loss.get("lpips_weight", 0) > 0:
        frozen["lpips"] = registry.load(config.loss.lpips_net)
    return frozen


def build_optimizer(config: ml_collections.ConfigDict) -> optax.GradientTransformation:
    """Builds the optimizer of encoder and decoder, or of a latent diffusion model."""
    optim = config.optim
    return adam(optim.lr, optim.warmup_steps, b1=optim.b1, b2=optim.b2, clip_norm=optim.clip_norm)


def build_discriminator_optimizer(
    config: ml_collections.ConfigDict,
) -> optax.GradientTransformation:
    """Builds the optimizer of the discriminator; where there is none, of nothing."""
    optim = config.optim
    if "discriminator_lr" not in optim:
        return build_optimizer(config)
    return adam(
        optim.discriminator_lr,
        optim.discriminator_warmup_steps,
        b1=optim.discriminator_b1,
        b2=optim.discriminator_b2,
        clip_norm=optim.clip_norm,
    )


def build_learning_rates(
    config: ml_collections.ConfigDict, *, has_discriminator: bool
) -> dict[str, optax.Schedule]:
    """The learning rate by the updates done before, for each optimizer."""
    optim = config.optim
    name = "generator" if is_latent_diffusion(config) else "autoencoder"
    rates = {name: learning_rate(optim.lr, optim.warmup_steps)}
    if has_discriminator:
        rates["discriminator"] = learning_rate(
            optim.discriminator_lr, optim.discriminator_warmup_steps
        )
    return rates


def build_train_step(config: ml_collections.ConfigDict) -> TrainStep:
    """The whole step."""
    return TrainStep(
        objective=build_objective(config),
        optimizer=build_optimizer(config),
        discriminator_optimizer=build_discriminator_optimizer(config),
        ema_decay=config.optim.ema_decay,
        accumulate=config.optim.accumulate,
    )
