"""What a config costs, before anything is compiled: parameters, and FLOPs by XLA's count."""

import jax
import jax.numpy as jnp

from epsilon_vae.training.objective import Objective
from epsilon_vae.training.state import init_state
from epsilon_vae.training.step import TrainStep


def parameter_counts(objective: Objective, image_size: int) -> dict[str, int]:
    """`{'encoder': …, 'decoder': …, 'discriminator': …}`; 0 without a GAN."""
    key = jax.random.key(0)
    networks = jax.eval_shape(lambda k: objective.networks.init(k, image_size), key)
    discriminator = jax.eval_shape(lambda k: objective.adversary.init(k, image_size), key)
    trees = networks | {"discriminator": discriminator}
    return {name: sum(x.size for x in jax.tree.leaves(tree)) for name, tree in trees.items()}


def step_flops(step: TrainStep, frozen: dict, batch_size: int, image_size: int) -> float:
    """FLOPs of one step, R1 included, as XLA counts them before it optimizes."""

    def make_state(key: jax.Array):
        return init_state(
            key, step.objective, step.optimizer, step.discriminator_optimizer, image_size
        )

    state = jax.eval_shape(make_state, jax.random.key(0))
    images = jax.ShapeDtypeStruct((batch_size, image_size, image_size, 3), jnp.float32)
    return jax.jit(step).lower(state, frozen, images).cost_analysis()["flops"]
