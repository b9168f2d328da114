"""Starts a run from its newest checkpoint, another run's weights, or the seed."""

import jax
import ml_collections
from etils import epath
from jax.sharding import Mesh

from epsilon_vae.checkpoint import (
    OTHER_RUN,
    Checkpointer,
    OtherNetworkError,
    Restored,
    holds_weights_alone,
    load_config,
    load_parts,
)
from epsilon_vae.checksums import DamagedError
from epsilon_vae.config import differences
from epsilon_vae.parallel import hosts
from epsilon_vae.step_folders import CheckpointError, load
from epsilon_vae.training.sharded import make_state, state_shapes
from epsilon_vae.training.state import TrainState, non_finite_fields
from epsilon_vae.training.step import TrainStep

# What checkpoints call a network, where that is not its name in `config.init`.
PARAMETERS = {"latent_diffusion": "generator"}


def restore_or_init(
    config: ml_collections.ConfigDict,
    train_step: TrainStep,
    *,
    checkpointer: Checkpointer,
    mesh: Mesh,
) -> tuple[TrainState, Restored | None]:
    """The newest good checkpoint's state and what else it held; or a new state, and None.

    One that holds NaN or infinite numbers, from which no step would be better, counts as damaged.
    One that holds weights alone has them in a new state.

    Args:
      config: of the run.
      train_step: whose state it is.
      checkpointer: of the run's folder.
      mesh: that the state is sharded over.

    Raises:
      CheckpointError: what is there, or in `config.init_from`, does not fit the config.
    """
    target = state_shapes(train_step, mesh)
    try:
        restored, loaded = checkpointer.restore_newest(target, check=_check_finite), {}
    except OtherNetworkError as error:
        saved = load_config(error.step_directory)
        changed = [line for line in differences(saved, config) if line.startswith("model.")]
        if not changed:
            raise
        raise CheckpointError(
            f"{error.step_directory} is of another network: {', '.join(changed)}; set it back, or "
            "name another workdir"
        ) from error
    if restored is not None:
        if isinstance(restored.state, TrainState):
            return restored.state, restored
        loaded = restored.state
    elif config.init_from:
        loaded = load_init_weights(target, config.init_from, **config.init)
    if hosts.is_first():
        print("Initializing the networks", flush=True)
    state = make_state(train_step, config.seed, target)
    weights = {field: getattr(state, field) | networks for field, networks in loaded.items()}
    return state.replace(**weights), restored


def _check_finite(state: TrainState | dict) -> None:
    if fields := non_finite_fields(state):
        raise DamagedError(f"NaN or infinite numbers in {', '.join(fields)}")


def load_init_weights(
    target: TrainState, workdir: str, discriminator: str = "none", **networks: str
) -> dict[str, dict]:
    """Networks of another run, by field of the state: `{'params': {'encoder': …}, 'ema': …}`.

    Args:
      target: shapes with shardings.
      workdir: of the other run.
      discriminator: 'raw' or 'none'; left out also where `target` has none, or the other run holds
        weights alone.
      networks: by name, 'ema' or 'raw' weights, for `params` and `ema` both; 'none' leaves it out.

    Raises:
      CheckpointError: no checkpoint there, or a network that is asked for does not fit.
    """

    def read(step_directory: epath.Path) -> dict[str, dict]:
        def read_network(name: str, path: str, network: dict) -> dict:
            hint = OTHER_RUN if name == "latent_diffusion" else f"config.init.{name} = none"
            return load_parts(step_directory, {path: network}, hint)

        params = {}
        for name, weights in networks.items():
            if weights != "none":
                field, tree = {"ema": "ema", "raw": "params"}[weights], PARAMETERS.get(name, name)
                params |= read_network(name, f"{field}/{tree}", target.params[tree])[field]
        fields = {"params": params, "ema": jax.tree.map(jax.numpy.copy, params)}
        has_one = target.discriminator and not holds_weights_alone(step_directory)
        if discriminator != "none" and has_one:
            fields |= read_network("discriminator", "discriminator", target.discriminator)
        return fields

    return load(workdir, read)
