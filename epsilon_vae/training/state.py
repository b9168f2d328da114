"""The train state: everything that a step reads and writes."""

import functools

import flax.struct
import jax
import numpy as np
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


def non_finite_fields(state: TrainState | dict) -> list[str]:
    """Fields that hold NaN or infinite numbers, of what this process alone holds of them.

    On the host, to which a save copies the state anyway: hundreds of reductions would take longer
    to compile than all saves of a run to copy.
    """
    fields = state if isinstance(state, dict) else vars(state)
    return [
        name
        for name, field in fields.items()
        if not all(_is_finite(array) for array in jax.tree.leaves(field))
    ]


def _is_finite(array: jax.Array) -> bool:
    shards = (shard.data for shard in array.addressable_shards if shard.replica_id == 0)
    return all(np.isfinite(shard).all() for shard in shards)
