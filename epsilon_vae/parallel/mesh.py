"""The device mesh: axes `data` (batch), `fsdp` (batch and parameters), `space` (image rows)."""

from collections.abc import Sequence

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from epsilon_vae.config import ConfigError, mesh_shape
from epsilon_vae.errors import reason
from epsilon_vae.parallel.sharding import BATCH_AXES

AXES = (*BATCH_AXES, "space")


def make_mesh(
    data: int = -1, fsdp: int = 1, space: int = 1, *, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """A mesh over all devices, or those given; one size may be -1, for what the others leave.

    Several TPU slices lie along `data`: what `fsdp` and `space` say to each other stays within one,
    and only gradients cross the data centre's network.

    Args:
      data, fsdp, space: sizes of the axes.
      devices: to be used; None for all.

    Raises:
      ConfigError: the sizes do not make up the number of devices, or slices do not divide `data`.
    """
    devices = jax.devices() if devices is None else devices
    shape = mesh_shape({"data": data, "fsdp": fsdp, "space": space}, len(devices))
    num_slices = len({getattr(device, "slice_index", 0) for device in devices})
    if shape["data"] % num_slices:
        raise ConfigError(
            f"config.mesh.data = {shape['data']}: the {num_slices} slices must divide it"
        )
    within = (shape["data"] // num_slices, shape["fsdp"], shape["space"])
    # An axis may be longer than one side of the torus, as 16 of 8x8.
    split = {"allow_split_physical_axes": True}
    if num_slices > 1:
        grid = mesh_utils.create_hybrid_device_mesh(within, (num_slices, 1, 1), devices, **split)
    else:
        grid = mesh_utils.create_device_mesh(within, devices, **split)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def local_mesh(
    space: int = 1, *, device: jax.Device | str | None = None, mesh: Mesh | None = None
) -> Mesh:
    """The mesh that a trained model is put on: this machine's first `space` devices by default.

    Args:
      space: devices that the rows of an image are spread over.
      device: to be used alone; or a platform, as 'cpu', for its first.
      mesh: of `make_mesh`, to be used as it is.

    Raises:
      ConfigError: fewer devices than `space`, no such device, another kind of mesh, or more than
        one of the three.
    """
    if (space != 1) + (device is not None) + (mesh is not None) > 1:
        raise ConfigError("space, device and mesh: give one of them; make_mesh has all")
    if mesh is not None:
        if mesh.axis_names != AXES:
            raise ConfigError(
                f"mesh with axes {mesh.axis_names}: expected {AXES}, as "
                "epsilon_vae.parallel.mesh.make_mesh makes"
            )
        return mesh
    try:
        devices = jax.local_devices(backend=device if isinstance(device, str) else None)
    except RuntimeError as error:
        raise ConfigError(f"device = {device!r}: {reason(error)}") from error
    if isinstance(device, jax.Device):
        devices = [device]
    if not 1 <= space <= len(devices):
        raise ConfigError(f"space = {space}: expected 1 to {len(devices)}, this machine's devices")
    return make_mesh(data=1, space=space, devices=devices[:space])


def image_sharding(mesh: Mesh) -> NamedSharding:
    """Shards images `[B, H, W, 3]`: the batch over `data` and `fsdp`, rows over `space`."""
    return NamedSharding(mesh, P(BATCH_AXES, "space"))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of arrays `[B, …]`: the batch over `data` and `fsdp`."""
    return NamedSharding(mesh, P(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of arrays that every device holds whole."""
    return NamedSharding(mesh, P())
