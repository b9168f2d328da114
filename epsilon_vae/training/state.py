"""The train state: everything that a step reads and writes."""

import functools

import flax.struct
import jax
import optax


@functools.partial(flax.struct.dataclass, kw_only=True)
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
