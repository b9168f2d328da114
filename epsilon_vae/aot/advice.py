"""Settings that would make a program fit, in the order in which one would try them."""

import copy
import dataclasses
import math
from collections.abc import Iterator

import jax
import ml_collections

from epsilon_vae.aot.chips import Topology
from epsilon_vae.aot.program import bytes_on_a_chip
from epsilon_vae.aot.report import GIB
from epsilon_vae.parallel.batch import num_data_shards
from epsilon_vae.parallel.mesh import make_mesh
from epsilon_vae.training.build import build_train_step
from epsilon_vae.training.sharded import state_shapes


@dataclasses.dataclass(frozen=True)
class Suggestion:
    """Values by key, as `{'mesh.fsdp': 16}`, and the HBM that a chip would then use.

    `hbm_bytes` is an estimate; None where only the compiler can tell.
    """

    settings: dict[str, object]
    hbm_bytes: float | None

    @property
    def flags(self) -> str:
        """The change as a flag of the command line."""
        return " ".join(f"--config.{key}={value}" for key, value in self.settings.items())

    def applied(self, config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
        """A copy of the config with these settings."""
        config = copy.deepcopy(config)
        config.update_from_flattened_dict(self.settings)
        return config

    def line(self, usable_bytes: int) -> str:
        """The flags, and what they are thought to come to."""
        if self.hbm_bytes is None:
            return f"  {self.flags}  less, by how much only compiling tells"
        words = "fits" if self.hbm_bytes <= usable_bytes else "still too much"
        return f"  {self.flags}  about {self.hbm_bytes / GIB:.2f} GiB: {words}"


def suggest_for_step(
    config: ml_collections.ConfigDict, topology: Topology, memory: dict
) -> list[Suggestion]:
    """fsdp, with the smallest size that fits, then remat or accumulation on top of it.

    fsdp: arguments as they would be sharded, computed; the kernels that are then gathered whole
    come on top of the temporaries. Accumulation: activations by its parts, and one more set of
    gradients. What is a temporary but no gradient counts as an activation.

    Args:
      config: that does not fit, or might.
      topology: of the chips.
      memory: 'arguments', 'temporaries', 'total' and 'usable' bytes on a chip.
    """
    mesh = make_mesh(**config.mesh, devices=topology.devices)
    data_shards = num_data_shards(mesh)
    space = mesh.shape["space"]
    state = _state_bytes(config, topology, mesh.shape["fsdp"], space)
    suggestions, settings, total = [], {}, memory["total"]
    gradients = state["gradients"]
    for fsdp in _divisors(data_shards // topology.num_slices):
        if fsdp <= mesh.shape["fsdp"]:
            continue
        sharded = _state_bytes(config, topology, fsdp, space)
        gathered = sharded["gathered"] - state["gathered"]
        total = memory["total"] - state["all"] + sharded["all"] + gathered
        settings = {"mesh.fsdp": fsdp}
        if config.mesh.data != -1:
            settings["mesh.data"] = data_shards // fsdp
        gradients = sharded["gradients"]
        if total <= memory["usable"]:
            break
    if settings:
        suggestions.append(Suggestion(dict(settings), total))
    for remat in _stronger_remat(config.model.remat):
        suggestions.append(Suggestion(settings | {"model.remat": remat}, None))
    activations = max(memory["temporaries"] - gradients, 0)
    largest = config.batch_size // data_shards
    for parts in _divisors(largest):
        if parts <= config.optim.accumulate:
            continue
        left = activations * (1 - config.optim.accumulate / parts)
        estimate = total - left + gradients * (config.optim.accumulate == 1)
        suggestions.append(Suggestion(settings | {"optim.accumulate": parts}, estimate))
        if estimate <= memory["usable"]:
            break
    return suggestions


def suggest_for_reconstruction(
    config: ml_collections.ConfigDict, topology: Topology, memory: dict
) -> list[Suggestion]:
    """Rows over more chips: all that the images do not need side by side.

    Weights stay whole on each chip; temporaries are taken to spread evenly.
    """
    chips = len(topology.devices)
    mesh = make_mesh(**config.mesh, devices=topology.devices)
    suggestions = []
    for space in _divisors(chips):
        if space <= mesh.shape["space"] or config.batch_size % (chips // space):
            continue
        if config.data.resolution % space:
            continue
        settings = {"mesh.data": chips // space, "mesh.fsdp": 1, "mesh.space": space}
        spread = memory["temporaries"] * (1 - mesh.shape["space"] / space)
        estimate = memory["total"] - spread
        suggestions.append(Suggestion(settings, estimate))
        if estimate <= memory["usable"]:
            break
    return suggestions


def larger_topology(memory: dict) -> str:
    """The line that ends every list of suggestions."""
    times = max(2, 2 ** math.ceil(math.log2(memory["total"] / memory["usable"])))
    return f"  {times} times the chips at the same batch, or chips with more memory"


def _state_bytes(
    config: ml_collections.ConfigDict, topology: Topology, fsdp: int, space: int
) -> dict[str, int]:
    """Bytes on a chip: of the whole state, of gradients, of kernels that fsdp gathers."""
    step = build_train_step(config)
    mesh = make_mesh(-1, fsdp, space, devices=topology.devices)
    state = state_shapes(step, mesh)
    networks = (step.objective.trained(state.params), state.discriminator)
    sharded = [x for x in jax.tree.leaves(networks) if not x.sharding.is_fully_replicated]
    itemsize = jax.numpy.dtype(config.dtype).itemsize
    return {
        "all": sum(bytes_on_a_chip(x) for x in jax.tree.leaves(state)),
        "gradients": sum(bytes_on_a_chip(x) for x in jax.tree.leaves(networks)),
        "gathered": sum(x.size * itemsize for x in sharded),
    }


def _stronger_remat(remat: str) -> list[str]:
    order = ["none", "convs", "full"]
    return order[order.index(remat) + 1 :]


def _divisors(n: int) -> Iterator[int]:
    return (i for i in range(1, n + 1) if n % i == 0)
