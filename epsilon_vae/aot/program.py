"""The programs that can be compiled ahead of time: the train step, and reconstruction."""

import copy
import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh

from epsilon_vae import builders
from epsilon_vae.config import ConfigError
from epsilon_vae.diffusion.sampler import sample
from epsilon_vae.diffusion.time import SPACINGS
from epsilon_vae.parallel.mesh import image_sharding, replicated
from epsilon_vae.parallel.sharding import infer_sharding
from epsilon_vae.training.flops import jaxpr_flops
from epsilon_vae.training.sharded import jit_step, state_shapes


@dataclasses.dataclass(frozen=True)
class Program:
    """A jitted function and what it is called with, none of it on a device.

    Attributes:
      what: it does, in words.
      num_images: in one call.
      function: jitted.
      arguments: trees of `jax.ShapeDtypeStruct`, with shardings.
      donated: indices of the arguments whose memory the results take over.
      model_flops: of one call, without what remat computes again.
    """

    what: str
    num_images: int
    function: Callable
    arguments: tuple
    donated: tuple[int, ...]
    model_flops: float

    def trace(self, mesh: Mesh) -> jax.stages.Traced:
        """Its jaxpr, ready to be lowered within the mesh."""
        with jax.set_mesh(mesh):
            return self.function.trace(*self.arguments)

    def argument_bytes(self) -> int:
        """On each chip."""
        return sum(bytes_on_a_chip(leaf) for leaf in jax.tree.leaves(self.arguments))


def bytes_on_a_chip(leaf: jax.ShapeDtypeStruct) -> int:
    """Of an array with a sharding, without the padding of tiles."""
    return int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize


def _on_every_chip(tree, mesh: Mesh):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated(mesh)), tree
    )


def train_step(config: ml_collections.ConfigDict, mesh: Mesh) -> Program:
    """The step of `main.py` on `config.batch_size` images of `config.data.resolution`."""
    size = config.data.resolution
    frozen = builders.frozen_weights(config)
    images = jax.ShapeDtypeStruct((config.batch_size, size, size, 3), jnp.float32)
    plain = _without_remat(config)
    plain_step = builders.train_step(plain)
    step = builders.train_step(config)
    target = state_shapes(step, size, mesh)
    model = jax.make_jaxpr(plain_step)(target, frozen, images)
    arguments = (
        target,
        _on_every_chip(frozen, mesh),
        jax.ShapeDtypeStruct(images.shape, images.dtype, sharding=image_sharding(mesh)),
    )
    return Program(
        f"train step, batch {config.batch_size}, {size} px",
        config.batch_size,
        jit_step(step, target, mesh),
        arguments,
        (0,),
        jaxpr_flops(model.jaxpr),
    )


def _without_remat(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    plain = copy.deepcopy(config)
    plain.model.remat = "none"
    plain.optim.accumulate = 1
    return plain


def reconstruction(
    config: ml_collections.ConfigDict, mesh: Mesh, batch_size: int, height: int, width: int
) -> Program:
    """Encoding and decoding at `config.flow.nfe` steps, as `Autoencoder.reconstruct`.

    The devices of `data` and `fsdp` share the images, each of which is worked through alone; those
    of `space` share its rows. Sizes are padded to what the networks take.

    Raises:
      ConfigError: the mesh cannot share the images or the rows.
    """
    networks, process = builders.networks(config), builders.process(config)
    multiple = max(networks.f, networks.decoder_stride)
    height, width = (-(-size // multiple) * multiple for size in (height, width))
    abreast = mesh.shape["data"] * mesh.shape["fsdp"]
    space = mesh.shape["space"]
    if batch_size % abreast:
        raise ConfigError(
            f"--batch={batch_size}: mesh.data x mesh.fsdp = {abreast} must divide it; for one "
            f"image over all chips set --config.mesh.data=1 --config.mesh.space={abreast * space}"
        )
    if height % space:
        raise ConfigError(f"--resolution: {height} rows do not divide over mesh.space = {space}")
    times = SPACINGS[config.flow.spacing](config.flow.nfe)

    def reconstruct_some(params: dict, images: jax.Array) -> jax.Array:
        latents = networks.encode(params, images)

        def predict(x: jax.Array, t: jax.Array) -> jax.Array:
            return networks.predict(params, x, t, latents)

        return sample(process, predict, times, jax.random.key(0), images.shape)

    def reconstruct(params: dict, images: jax.Array) -> jax.Array:
        if images.shape[0] == abreast:
            return jnp.clip(reconstruct_some(params, images), -1, 1)
        rounds = images.reshape(abreast, -1, *images.shape[1:]).swapaxes(0, 1)
        rounds = jax.lax.map(lambda some: reconstruct_some(params, some), rounds)
        return jnp.clip(rounds.swapaxes(0, 1).reshape(images.shape), -1, 1)

    key = jax.eval_shape(lambda: jax.random.key(0))
    shapes = jax.eval_shape(lambda k: networks.init(k, multiple), key)
    params = jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        shapes,
        infer_sharding(shapes, mesh),
    )
    shape = (batch_size, height, width, 3)
    images = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=image_sharding(mesh))
    return Program(
        f"reconstruction of {batch_size} image{'s' * (batch_size > 1)} of {height} x {width}, "
        f"NFE {config.flow.nfe}",
        batch_size,
        jax.jit(reconstruct, out_shardings=image_sharding(mesh)),
        (params, images),
        (),
        jaxpr_flops(jax.make_jaxpr(reconstruct)(params, images).jaxpr),
    )
