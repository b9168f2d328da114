"""The train state: everything that a step reads and writes."""

import flax.struct
import jax
import jax.numpy as jnp
import optax

from epsilon_vae.training.objective import Objective


@flax.struct.dataclass
class TrainState:
    """Parameters are float32; `ema` and the optimizer states have their shapes.

    Attributes:
      step: updates done so far, int32.
      params: `{'encoder', 'decoder'}`.
      ema: exponential moving average of `params`.
      opt_state: of those `params` that are trained.
      discriminator: parameters; empty without a GAN.
      discriminator_opt_state: of the discriminator.
    """

    step: jax.Array
    params: dict
    ema: dict
    opt_state: optax.OptState
    discriminator: dict
    discriminator_opt_state: optax.OptState


def init_state(
    key: jax.Array,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    discriminator_optimizer: optax.GradientTransformation,
    image_size: int,
) -> TrainState:
    """The state before the first step."""
    networks_key, discriminator_key = jax.random.split(key)
    params = objective.networks.init(networks_key, image_size)
    discriminator = objective.adversary.init(discriminator_key, image_size)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        # A copy: buffers that two leaves share cannot be donated.
        ema=jax.tree.map(jnp.copy, params),
        opt_state=optimizer.init(objective.trained(params)),
        discriminator=discriminator,
        discriminator_opt_state=discriminator_optimizer.init(discriminator),
    )
