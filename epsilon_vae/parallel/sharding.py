"""Shardings: where each parameter, batch and activation lives."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

BATCH_AXES = ("data", "fsdp")
# Below this many elements a parameter is cheaper to hold than to gather.
MIN_SHARDED_SIZE = 2**16
# With fewer rows a device, neighbours' rows are most of what a convolution reads; and with two, the
# compiler (JAX 0.10.2) made second-order gradients of the discriminator too large.
MIN_ROWS = 8


def infer_sharding(shapes, mesh: Mesh):
    """A sharding for each leaf of a tree of shapes: `fsdp` along the largest dimension it divides.

    Works alike for parameters, their EMA and optimizer state, whose shapes are the parameters'.
    """
    return jax.tree.map(lambda leaf: NamedSharding(mesh, _spec(leaf, mesh.shape["fsdp"])), shapes)


def _spec(leaf: jax.Array | jax.ShapeDtypeStruct, fsdp: int) -> P:
    divisible = [i for i, size in enumerate(leaf.shape) if size % fsdp == 0]
    if fsdp == 1 or leaf.size < MIN_SHARDED_SIZE or not divisible:
        return P()
    largest = max(divisible, key=lambda i: leaf.shape[i])
    return P(*(None,) * largest, "fsdp")


def gather_parameters(params, dtype: jnp.dtype):
    """`params` whole on every device, sharded kernels in `dtype`; gradients go back sharded.

    Left to itself, the compiler passes sharded kernels round the ring in hundreds of loops, one for
    each convolution, which take more memory than whole kernels do. Layers use kernels in `dtype`
    anyway; a codebook stays as it is.
    """
    fsdp = _size_of("fsdp")

    def gather(path: tuple, leaf: jax.Array) -> jax.Array:
        spec = _spec(leaf, fsdp)
        is_kernel = path[-1].key == "kernel"
        return leaf if spec == P() else _gather(leaf, spec, dtype if is_kernel else leaf.dtype)

    return jax.tree.map_with_path(gather, params)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gather(leaf: jax.Array, spec: P, dtype: jnp.dtype) -> jax.Array:
    del spec
    return jax.lax.with_sharding_constraint(leaf.astype(dtype), P())


def _gather_forward(leaf: jax.Array, spec: P, dtype: jnp.dtype) -> tuple[jax.Array, None]:
    return _gather(leaf, spec, dtype), None


def _gather_backward(spec: P, dtype: jnp.dtype, _: None, grad: jax.Array) -> tuple[jax.Array]:
    del dtype
    # Whole first, then each device's part: asked for the part at once, the compiler may gather the
    # activations of all images to make it.
    grad = jax.lax.with_sharding_constraint(grad, P())
    return (jax.lax.with_sharding_constraint(grad, spec).astype(jnp.float32),)


_gather.defvjp(_gather_forward, _gather_backward)


def sharding_table(shapes) -> str:
    """A line for each leaf of a tree of arrays or shapes: path, shape, spec, bytes on a device."""
    lines = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        local = math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        shape = "x".join(map(str, leaf.shape)) or "scalar"
        axes = ", ".join(str(axis) for axis in leaf.sharding.spec) or "replicated"
        lines.append(f"{name:60} {shape:18} {axes:24} {local:12,}")
    return "\n".join(lines) + "\n"


def space_devices() -> int:
    """How many devices share an image's rows; 1 without a mesh."""
    return _size_of("space")


def _size_of(axis: str) -> int:
    return dict(jax.sharding.get_abstract_mesh().shape).get(axis, 1)


def shard_images(x: jax.Array) -> jax.Array:
    """Keeps activations `[B, H, W, C]` on the devices of its images: batch and rows.

    Says so to the compiler, under `jax.set_mesh`; without a mesh it does nothing. An axis that does
    not divide its dimension, as in a batch of one, is left out, and so are rows that are few: each
    device of `space` then computes the deepest levels whole.
    """
    return _constrain(x, rows="space")


def gather_rows(x: jax.Array) -> jax.Array:
    """`[B, …]` with its batch over `data` and `fsdp`, all else on every device of its `space`."""
    return _constrain(x, rows=None)


def _constrain(x: jax.Array, rows: str | None) -> jax.Array:
    mesh = jax.sharding.get_abstract_mesh()
    # Within a shard_map axes are manual, and each device has its own images.
    sizes = {
        axis: mesh.shape[axis]
        for axis, kind in zip(mesh.axis_names, mesh.axis_types, strict=True)
        if kind == AxisType.Auto
    }
    if math.prod(sizes.values()) == 1:
        return x
    batch = tuple(axis for axis in BATCH_AXES if axis in sizes)
    if x.shape[0] % math.prod(sizes[axis] for axis in batch):
        batch = ()
    if rows not in sizes or x.shape[1] % sizes[rows] or x.shape[1] < MIN_ROWS * sizes[rows]:
        rows = None
    return jax.lax.with_sharding_constraint(x, P(batch or None, rows))


def local_batch_indices(sharding: NamedSharding, batch_size: int) -> np.ndarray:
    """Places of a global batch `[B, …]` that this process's devices hold, rising."""
    all_indices = np.arange(batch_size)
    by_image = NamedSharding(sharding.mesh, P(sharding.spec[0]))
    indices = by_image.addressable_devices_indices_map((batch_size,))
    return np.unique(np.concatenate([all_indices[index[0]] for index in indices.values()]))


def global_batch(
    sharding: NamedSharding, batch_size: int, *, local_indices: np.ndarray, local: np.ndarray
) -> jax.Array:
    """The global array `[batch_size, …]`, of which each process gives a part.

    Args:
      sharding: of the global array.
      batch_size: of all processes.
      local_indices: of the batch that this process holds.
      local: their entries, `[len(local_indices), …]`.
    """

    def shard(index: tuple[slice, ...]) -> np.ndarray:
        wanted = np.arange(batch_size)[index[0]]
        start = np.searchsorted(local_indices, wanted[0])
        return local[start : start + len(wanted), *index[1:]]

    return jax.make_array_from_callback((batch_size, *local.shape[1:]), sharding, shard)
