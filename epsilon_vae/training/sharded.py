"""The state and the step on a mesh: where every array lives, known before any of it exists."""

import jax
from jax.sharding import Mesh

from epsilon_vae.parallel.mesh import image_sharding, replicated
from epsilon_vae.parallel.sharding import infer_sharding
from epsilon_vae.training.state import TrainState
from epsilon_vae.training.step import TrainStep


def state_shapes(train_step: TrainStep, image_size: int, mesh: Mesh) -> TrainState:
    """A tree of `jax.ShapeDtypeStruct` with shardings: the state of a run, none of it made."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    shapes = jax.eval_shape(lambda key: train_step.init(key, image_size), key)
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        shapes,
        infer_sharding(shapes, mesh),
    )


def make_state(train_step: TrainStep, seed: int, image_size: int, target: TrainState) -> TrainState:
    """The state before the first step, made where `state_shapes` says that it lives.

    No device ever holds what it will not keep.
    """
    shardings = jax.tree.map(lambda x: x.sharding, target)
    make = jax.jit(train_step.init, static_argnums=1, out_shardings=shardings)
    return make(jax.random.key(seed), image_size)


def jit_step(train_step: TrainStep, target: TrainState, mesh: Mesh):
    """The step with its state donated and left where `target` says, its metrics on every device.

    Its arguments are the state, the frozen weights (replicated), and images `[B, H, W, 3]`, their
    batch over `data` and `fsdp`, their rows over `space`.
    """
    shardings = jax.tree.map(lambda x: x.sharding, target)

    def step(state: TrainState, frozen: dict, images: jax.Array):  # its name is a profile's too
        return train_step(state, frozen, images)

    return jax.jit(
        step,
        in_shardings=(shardings, replicated(mesh), image_sharding(mesh)),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
    )
