"""The ε-VAE's two networks as one object: an encoder and a denoising decoder."""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from epsilon_vae.diffusion.path import Process
from epsilon_vae.diffusion.sampler import sample, sample_from, trajectory
from epsilon_vae.models.bottleneck import KLBottleneck, TrainingLatents, VQBottleneck


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutoencoderModel:
    """Encoder E and denoiser G with the pure functions that the objective and the sampler call.

    Attributes:
      encoder: images `[B, H, W, 3]` → latents `[B, H/f, W/f, n_z]`; perhaps a bottleneck around it.
      decoder: (noisy images `[B, H, W, 3]`, times `[B]`, latents) → prediction `[B, H, W, 3]`.
      f: downsampling factor of the encoder.
      decoder_stride: height and width that the decoder takes are multiples of this.
    """

    encoder: nn.Module
    decoder: nn.Module
    f: int
    decoder_stride: int

    @property
    def multiple(self) -> int:
        """Height and width of images are multiples of this."""
        return max(self.f, self.decoder_stride)

    def init(self, key: jax.Array, image_size: int) -> dict:
        """Initial parameters `{'encoder': …, 'decoder': …}` for square images of `image_size`."""
        encoder_key, decoder_key = jax.random.split(key)
        images = jnp.zeros((1, image_size, image_size, 3))
        encoder = self.encoder.init(encoder_key, images)["params"]
        latents = self.encode({"encoder": encoder}, images)
        decoder = self.decoder.init(decoder_key, images, jnp.zeros((1,)), latents)["params"]
        return {"encoder": encoder, "decoder": decoder}

    def encode(self, params: dict, images: jax.Array) -> jax.Array:
        """Latents `[B, H/f, W/f, n_z]` of float images `[B, H, W, 3]` in [-1, 1].

        Raises:
          ValueError: the images are not float, or a side is no multiple of `multiple`.
        """
        if not jnp.issubdtype(images.dtype, jnp.floating):
            raise ValueError(f"images of {images.dtype}: expected float in [-1, 1]")
        if any(side % self.multiple for side in images.shape[1:3]):
            raise ValueError(f"images {images.shape}: sides must be multiples of {self.multiple}")
        return self.encoder.apply({"params": params["encoder"]}, images)

    def latent_noise_shape(self, image_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of one image's noise for `training_latents`; empty for most."""
        if not isinstance(self.encoder, KLBottleneck):
            return (0,)
        height, width, _ = image_shape
        return (height // self.f, width // self.f, self.encoder.n_z)

    def training_latents(
        self, params: dict, images: jax.Array, noise: jax.Array
    ) -> TrainingLatents:
        """Latents as training has them, with their loss; without a bottleneck `encode`'s and 0."""
        if isinstance(self.encoder, (KLBottleneck, VQBottleneck)):
            return self.encoder.apply({"params": params["encoder"]}, images, noise, method="train")
        return TrainingLatents(self.encode(params, images), jnp.zeros(()), {})

    def predict(self, params: dict, x: jax.Array, *, t: jax.Array, latents: jax.Array) -> jax.Array:
        """The decoder's prediction (velocity or noise) at noisy images.

        Args:
          params: `{'encoder', 'decoder'}`.
          x: the process's input, `[B, H, W, 3]`.
          t: times `[B]`.
          latents: `[B, h, w, n_z]`.
        """
        return self.decoder.apply({"params": params["decoder"]}, x, t, latents)

    def predict_with_last_layer(
        self, params: dict, x: jax.Array, *, t: jax.Array, latents: jax.Array
    ) -> tuple[jax.Array, Callable[[jax.Array], jax.Array]]:
        """`predict`, and gradient by the prediction → gradient by the last layer's kernel.

        Args:
          params, x, t, latents: as `predict`'s.
        """
        decoder = traverse_util.flatten_dict(params["decoder"], sep="/")
        last = f"{self.decoder.last_layer}/kernel"

        def predict(kernel: jax.Array) -> jax.Array:
            changed = traverse_util.unflatten_dict(decoder | {last: kernel}, sep="/")
            return self.predict(params | {"decoder": changed}, x, t=t, latents=latents)

        prediction, vjp = jax.vjp(predict, decoder[last])
        return prediction, lambda grad: vjp(grad)[0]

    def decode(
        self,
        params: dict,
        process: Process,
        *,
        latents: jax.Array,
        times: jax.Array,
        key: jax.Array,
    ) -> jax.Array:
        """Images `[B, f h, f w, 3]` in [-1, 1], sampled at `times` (`diffusion.sampler`).

        Args:
          params: `{'encoder', 'decoder'}`.
          process: the diffusion process.
          latents: `[B, h, w, n_z]`.
          times: `[nfe + 1]`, falling from 1 to 0.
          key: of the noise; see `diffusion.sampler.sample`.
        """
        predict, shape = self._denoiser(params, latents)
        return jnp.clip(sample(process, predict, times=times, key=key, shape=shape), -1, 1)

    def decode_noise(
        self,
        params: dict,
        process: Process,
        *,
        latents: jax.Array,
        times: jax.Array,
        draw: Callable[[jax.Array], jax.Array],
    ) -> jax.Array:
        """Images as `decode`'s, from noise that the caller gives.

        Args:
          params, process, latents, times: as `decode`'s.
          draw: of the noise, as `diffusion.sampler.sample_from`'s.
        """
        predict, shape = self._denoiser(params, latents)
        images = sample_from(process, predict, times=times, draw=draw, shape=shape)
        return jnp.clip(images, -1, 1)

    def trajectory(
        self,
        params: dict,
        process: Process,
        *,
        latents: jax.Array,
        times: jax.Array,
        key: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        """How `decode` comes to its images: `diffusion.sampler.trajectory`.

        Args:
          params, process, latents, times, key: as `decode`'s.
        """
        predict, shape = self._denoiser(params, latents)
        return trajectory(process, predict, times=times, key=key, shape=shape)

    def _denoiser(
        self, params: dict, latents: jax.Array
    ) -> tuple[Callable[[jax.Array, jax.Array], jax.Array], tuple[int, int, int, int]]:
        """The decoder as a function of noisy images and times, and the images' shape."""
        batch, height, width, _ = latents.shape
        shape = (batch, height * self.f, width * self.f, 3)
        return lambda x, t: self.predict(params, x, t=t, latents=latents), shape
