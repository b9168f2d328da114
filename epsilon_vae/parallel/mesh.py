"""The device mesh: axes `data` (batch), `fsdp` (batch and parameters), `space` (image rows)."""

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from epsilon_vae.config import mesh_shape

AXES = ("data", "fsdp", "space")


def make_mesh(data: int = -1, fsdp: int = 1, space: int = 1) -> Mesh:
    """A mesh over all devices; one size may be -1, for what the others leave.

    Raises:
      ConfigError: the sizes do not make up the number of devices.
    """
    shape = mesh_shape({"data": data, "fsdp": fsdp, "space": space}, jax.device_count())
    return jax.make_mesh(tuple(shape.values()), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Of arrays whose first axis is the batch."""
    return NamedSharding(mesh, P(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """Of arrays that every device holds whole."""
    return NamedSharding(mesh, P())
