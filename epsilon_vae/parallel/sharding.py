"""Where each parameter lives."""

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

# Below this many elements a parameter is cheaper to hold than to gather.
MIN_SHARDED_SIZE = 2**16


def infer_sharding(shapes, mesh: Mesh):
    """A sharding for each leaf of a tree of shapes: `fsdp` along the largest dimension it divides.

    Works alike for parameters, their EMA and optimizer state, whose shapes are the parameters'.
    """
    fsdp = mesh.shape["fsdp"]

    def infer(leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        divisible = [i for i, size in enumerate(leaf.shape) if size % fsdp == 0]
        if fsdp == 1 or leaf.size < MIN_SHARDED_SIZE or not divisible:
            return NamedSharding(mesh, P())
        largest = max(divisible, key=lambda i: leaf.shape[i])
        return NamedSharding(mesh, P(*(None,) * largest, "fsdp"))

    return jax.tree.map(infer, shapes)
