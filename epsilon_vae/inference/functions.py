"""An autoencoder as pure functions of JAX arrays, for `jit`, `vmap`, `grad` and any mesh."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from epsilon_vae.diffusion.path import Direct, Process, RectifiedFlow
from epsilon_vae.diffusion.time import SPACINGS
from epsilon_vae.inference.tiling import noise_at
from epsilon_vae.models.autoencoder_model import AutoencoderModel
from epsilon_vae.models.layers import measured_of_first


@dataclasses.dataclass(frozen=True, kw_only=True)
class Functions:
    """Encodes and decodes as pure functions: the parameters, too, are an argument.

    Arrays are of sizes that the networks take; nothing is padded or checked for NaN.

    Attributes:
      networks: encoder and decoder.
      process: the diffusion process.
      spacing: of the decoder's times, a key of `SPACINGS`.
    """

    networks: AutoencoderModel
    process: Process
    spacing: str

    @property
    def is_diffusion(self) -> bool:
        """Whether the decoder denoises, in steps and from a key; or gives the image itself."""
        return not isinstance(self.process, Direct)

    def times(self, steps: int) -> np.ndarray:
        """Times from 1 to 0 of a decoding in `steps`, float32; of one step without diffusion."""
        return SPACINGS[self.spacing](steps if self.is_diffusion else 1)

    def encode(self, params: dict, images: jax.Array) -> jax.Array:
        """Latents, float32 `[(B,) h, w, n_z]`, of float images `[(B,) H, W, 3]` in [-1, 1].

        Raises:
          ValueError: another type or shape, or sides that are no multiples of `networks.multiple`.
        """
        if images.ndim not in (3, 4) or images.shape[-1] != 3:
            raise ValueError(f"images {images.shape}: expected [(B,) H, W, 3]")
        if images.ndim == 3:
            return self.encode(params, images[None])[0]
        return _on_any_mesh(self.networks.encode, images)(params, images)

    def decode(self, params: dict, latents: jax.Array, key: jax.Array, steps: int = 3) -> jax.Array:
        """Images, float32 `[(B,) H, W, 3]` in [-1, 1], of latents `[(B,) h, w, n_z]`.

        Args:
          params: `{'encoder', 'decoder'}`, of which the decoder is enough.
          latents: as `encode` gives them.
          key: `jax.random.key` of the noise, which all images share; or keys `[B]`, one for each.
          steps: network evaluations (NFE). It is no array: `jax.jit` needs
            `static_argnames="steps"`, unless it keeps its default.

        Raises:
          ValueError: another shape, no key, or steps that are none.
        """
        if latents.ndim == 3:
            return self.decode(params, latents[None], key, steps)[0]
        return self.decode_at(params, latents, key, self._checked(latents, key, steps))

    def trajectory(
        self, params: dict, latents: jax.Array, key: jax.Array, steps: int = 3
    ) -> tuple[jax.Array, jax.Array]:
        """How `decode` comes to its images, for a batch.

        Args:
          params, latents, key, steps: as `decode`'s.

        Returns:
          x_t at all times, the last as images, `[steps + 1, B, H, W, 3]`, and the estimates of x0
          at all but the last, `[steps, B, H, W, 3]`.
        """
        times = self._checked(latents, key, steps)
        states, estimates = self.networks.trajectory(
            params, self.process, latents=latents, times=times, key=_typed(key)
        )
        return states.at[-1].set(self.process.unscale(states[-1])), estimates

    def decode_from_seed(
        self, whole: tuple[dict, jax.Array, jax.Array], latents: jax.Array
    ) -> jax.Array:
        """`decode` as `parallel.batch` shares it: `whole` is parameters, times and a seed."""
        params, times, seed = whole
        return self.decode_at(params, latents, key_of(seed), times)

    def encode_tiles(self, whole: tuple[dict, jax.Array], tiles: jax.Array) -> jax.Array:
        """Latents of tiles of an image, as `parallel.batch` shares them.

        Args:
          whole: the parameters, and the image's probes (`inference.tiling`).
          tiles: `[B, side, side, 3]`.
        """
        params, probes = whole
        with measured_of_first(len(probes)):
            return self.encode(params, jnp.concatenate([probes, tiles]))[len(probes) :]

    def decode_tiles(
        self, whole: tuple[dict, jax.Array, jax.Array, tuple], tiles: jax.Array, pixels: jax.Array
    ) -> jax.Array:
        """Tiles of the image that `decode_from_seed` makes, as `parallel.batch` shares them.

        Args:
          whole: the parameters, times, seed, and the latents and pixels of the image's probes.
          tiles: latents `[B, h, w, n_z]`.
          pixels: numbers of the tiles' pixels in the image, uint32 `[B, f h, f w]`.
        """
        params, times, seed, probes = whole
        count, process = len(probes[0]), self.process
        latents, pixels = (jnp.concatenate(x) for x in zip(probes, (tiles, pixels), strict=True))
        key = key_of(seed)
        if isinstance(process, RectifiedFlow):
            process = dataclasses.replace(process, measured=count)
        with measured_of_first(count):
            images = self.networks.decode_noise(
                params,
                process,
                latents=latents,
                times=times,
                draw=lambda i: noise_at(jax.random.fold_in(key, i), pixels),
            )
        return images[count:]

    def decode_at(
        self, params: dict, latents: jax.Array, key: jax.Array, times: jax.Array
    ) -> jax.Array:
        """`decode` at times `[steps + 1]` of one's own, falling from 1 to 0.

        Args:
          params, latents, key: as `decode`'s, for a batch.
          times: the decoder's.
        """

        def decode(params: dict, latents: jax.Array, key: jax.Array) -> jax.Array:
            return self.networks.decode(
                params, self.process, latents=latents, times=times, key=_typed(key)
            )

        return _on_any_mesh(decode, latents)(params, latents, key)

    def _checked(self, latents: jax.Array, key: jax.Array, steps: int) -> np.ndarray:
        """The times of `steps`; raises `ValueError` for arguments that cannot be used."""
        networks = self.networks
        n_z, multiple = networks.encoder.n_z, max(1, networks.decoder_stride // networks.f)
        if latents.ndim != 4 or latents.shape[-1] != n_z:
            raise ValueError(f"latents {latents.shape}: expected [(B,) h, w, {n_z}]")
        if any(side % multiple for side in latents.shape[1:3]):
            raise ValueError(f"latents {latents.shape}: sides must be multiples of {multiple}")
        if not hasattr(key, "dtype"):
            raise ValueError(f"key = {key!r:.60}: expected jax.random.key(a seed)")
        if isinstance(steps, jax.core.Tracer):
            raise ValueError("steps is traced: give jax.jit static_argnames='steps'")
        if steps < 1:
            raise ValueError(f"steps = {steps}: at least 1")
        return self.times(steps)


def key_of(seed: jax.Array | np.uint32) -> jax.Array:
    """The key of a seed, of the same kind whatever JAX's default is: so is the noise."""
    return jax.random.key(seed, impl="threefry2x32")


def _on_any_mesh(function: Callable[..., jax.Array], batch: jax.Array) -> Callable[..., jax.Array]:
    """`function`, whose result has its batch where `batch` has, also on a mesh of explicit axes.

    Inside, such axes are the compiler's: with explicit ones JAX wants to be told of each reshape.
    """
    sharding = jax.typeof(batch).sharding
    kinds = zip(sharding.mesh.axis_names, sharding.mesh.axis_types, strict=True)
    explicit = tuple(axis for axis, kind in kinds if kind == AxisType.Explicit)
    if not explicit:
        return function
    out_sharding = NamedSharding(sharding.mesh, P(sharding.spec[0]))
    return jax.sharding.auto_axes(function, axes=explicit, out_sharding=out_sharding)


def _typed(key: jax.Array) -> jax.Array:
    """The key, or that of `jax.random.PRNGKey`'s numbers."""
    is_typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    return key if is_typed else jax.random.wrap_key_data(key)
