"""The state and the step on a mesh: where every array lives, known before any of it exists."""

import jax
from jax.sharding import Mesh

from epsilon_vae.parallel.mesh import batch_sharding, image_sharding, replicated
from epsilon_vae.parallel.programs import compiler_options
from epsilon_vae.parallel.sharding import infer_sharding
from epsilon_vae.training.state import TrainState
from epsilon_vae.training.step import TrainStep


def state_shapes(train_step: TrainStep, mesh: Mesh) -> TrainState:
    """A tree of `jax.ShapeDtypeStruct` with shardings: the state of a run, none of it made."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    shapes = jax.eval_shape(train_step.init, key)
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        shapes,
        infer_sharding(shapes, mesh),
    )


def make_state(train_step: TrainStep, seed: int, target: TrainState) -> TrainState:
    """The state before the first step, made where `state_shapes` says that it lives.

    Each device allocates only its own shard. On a CPU it is compiled without optimizations, in a
    quarter of the time: it runs once, and gives the same bits.
    """
    shardings = jax.tree.map(lambda x: x.sharding, target)
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    make = jax.jit(train_step.init, out_shardings=shardings, compiler_options=options)
    return make(jax.random.key(seed))


def batch_shapes(
    train_step: TrainStep, batch_size: int, mesh: Mesh
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a batch, with shardings: over `data` and `fsdp`, rows of images over `space`."""
    return {
        name: jax.ShapeDtypeStruct(
            x.shape,
            x.dtype,
            sharding=image_sharding(mesh) if name == "image" else batch_sharding(mesh),
        )
        for name, x in train_step.objective.batch_shapes(batch_size).items()
    }


def jit_step(train_step: TrainStep, target: TrainState, mesh: Mesh):
    """The step with its state donated and left where `target` says, its metrics on every device.

    Its arguments are the state, the frozen weights (replicated), and a batch as `batch_shapes`.
    """
    shardings = jax.tree.map(lambda x: x.sharding, target)
    batch_at = {name: x.sharding for name, x in batch_shapes(train_step, 1, mesh).items()}

    def step(state: TrainState, frozen: dict, batch: dict):  # its name is a profile's too
        return train_step(state, frozen, batch)

    return jax.jit(
        step,
        in_shardings=(shardings, replicated(mesh), batch_at),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
        compiler_options=compiler_options(mesh),
    )
