"""The programs that can be compiled ahead of time: the train step, and reconstruction."""

import copy
import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from epsilon_vae.aot.chips import Topology
from epsilon_vae.config import check
from epsilon_vae.inference.functions import Functions
from epsilon_vae.models.build import build_networks, build_process
from epsilon_vae.parallel.batch import jit_shared
from epsilon_vae.parallel.mesh import make_mesh, replicated
from epsilon_vae.parallel.sharding import BATCH_AXES
from epsilon_vae.training.build import build_train_step, frozen_inputs
from epsilon_vae.training.flops import jaxpr_flops, parameter_counts
from epsilon_vae.training.sharded import batch_shapes, jit_step, state_shapes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """A jitted function and what it is called with, none of it on a device.

    Attributes:
      what: it does, in words.
      mesh: of devices that need not exist.
      num_images: in one call.
      parameter_counts: by network.
      function: jitted.
      arguments: trees of `jax.ShapeDtypeStruct`, with shardings.
      model_flops: of one call, without what `config.model.remat` computes again; attention over
        more than 1024 tokens computes its scores again in any case, which is counted.
    """

    what: str
    mesh: Mesh
    num_images: int
    parameter_counts: dict[str, int]
    function: Callable
    arguments: tuple
    model_flops: float

    def trace(self) -> jax.stages.Traced:
        """Its jaxpr, ready to be lowered."""
        with jax.set_mesh(self.mesh):
            return self.function.trace(*self.arguments)

    def argument_bytes(self) -> int:
        """Bytes of the arguments on each chip, without the padding of tiles."""
        return sum(bytes_on_a_chip(leaf) for leaf in jax.tree.leaves(self.arguments))


def bytes_on_a_chip(leaf: jax.ShapeDtypeStruct) -> int:
    """Bytes of an array with a sharding, on one device."""
    return math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize


def train_step(config: ml_collections.ConfigDict, topology: Topology) -> Program:
    """The step of `main.py` on `config.batch_size` images of `config.data.resolution`.

    Raises:
      ConfigError: a config that cannot run on so many chips.
    """
    check(config, len(topology.devices))
    mesh = make_mesh(**config.mesh, devices=topology.devices)
    step = build_train_step(config)
    frozen = frozen_inputs(config)
    target = state_shapes(step, mesh)
    batch = batch_shapes(step, config.batch_size, mesh)
    model = jax.make_jaxpr(build_train_step(_without_remat(config)))(target, frozen, batch)
    frozen = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated(mesh)), frozen
    )
    return Program(
        what=f"train step, batch {config.batch_size}, {config.data.resolution} px",
        mesh=mesh,
        num_images=config.batch_size,
        parameter_counts=parameter_counts(step.objective),
        function=jit_step(step, target, mesh),
        arguments=(target, frozen, batch),
        model_flops=jaxpr_flops(model.jaxpr),
    )


def _without_remat(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    plain = copy.deepcopy(config)
    plain.model.remat = "none"
    plain.optim.accumulate = 1
    return plain


def reconstruction(
    config: ml_collections.ConfigDict, topology: Topology, width: int | None = None
) -> Program:
    """Encoding and decoding at `config.flow.nfe` steps, as `Autoencoder.reconstruct`.

    `config.batch_size` images of `config.data.resolution` rows, and as many columns unless `width`
    is given; both are padded to what the networks take. The chips of `data` and `fsdp` share the
    images, each its part together, as `Autoencoder` with this `group_size`; those of `space` share
    the rows of each.

    Raises:
      ConfigError: a config that cannot run on so many chips.
    """
    networks = build_networks(config)
    functions = Functions(
        networks=networks, process=build_process(config), spacing=config.flow.spacing
    )
    width = math.ceil((width or config.data.resolution) / networks.multiple) * networks.multiple
    check(config, len(topology.devices))
    mesh = make_mesh(**config.mesh, devices=topology.devices)
    times = functions.times(config.flow.nfe)

    def reconstruct(whole: tuple, images: jax.Array) -> jax.Array:
        return functions.decode_from_seed(whole, functions.encode(whole[0], images))

    def shape_of(x, *spec) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, P(*spec)))

    key = jax.eval_shape(lambda: jax.random.key(0))
    params = jax.eval_shape(lambda k: networks.init(k, networks.multiple), key)
    # Whole on each chip, as a restored `Autoencoder` has them.
    whole = jax.tree.map(shape_of, (params, times, np.uint32(0)))
    shape = (config.batch_size, config.data.resolution, width, 3)
    images = shape_of(jax.ShapeDtypeStruct(shape, jnp.float32), BATCH_AXES)
    function = jit_shared(reconstruct, mesh)
    with jax.set_mesh(mesh):
        jaxpr = function.trace(whole, images).jaxpr
    plural = "s" if config.batch_size > 1 else ""
    return Program(
        what=f"reconstruction of {config.batch_size} image{plural}, {shape[1]} x {width} px, NFE "
        f"{config.flow.nfe}",
        mesh=mesh,
        num_images=config.batch_size,
        parameter_counts={
            name: sum(x.size for x in jax.tree.leaves(tree)) for name, tree in params.items()
        },
        function=function,
        arguments=(whole, images),
        model_flops=jaxpr_flops(jaxpr.jaxpr),
    )


def prepare_reconstruction(
    config: ml_collections.ConfigDict, batch_size: int, height: int
) -> ml_collections.ConfigDict:
    """A copy of the config for `reconstruction`, with `height` padded to what the networks take.

    Raises:
      ConfigError: the encoder has no such f.
    """
    config = copy.deepcopy(config)
    multiple = build_networks(config).multiple
    config.data.resolution = math.ceil(height / multiple) * multiple
    config.batch_size, config.optim.accumulate = batch_size, 1
    return config
