"""Bottlenecks: an encoder whose latents are drawn or quantized in training, and pay for it.

The ε-VAE's encoder has none (its latents are the encoder's output); those of the autoencoders that
it is compared with do. Called as an encoder, each gives the latents that a decoder or a latent
diffusion model is to use; `train` gives training's.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from epsilon_vae.models.layers import conv


class TrainingLatents(NamedTuple):
    """Latents `[B, h, w, n_z]`, the weighted loss of making them, and metrics."""

    latents: jax.Array
    loss: jax.Array
    metrics: dict[str, jax.Array]


class KLBottleneck(nn.Module, kw_only=True):
    """Gaussian latents, held near N(0, 1) (Kingma & Welling 2014), as SD-VAE's.

    Attributes:
      encoder: images → `[B, h, w, 2 n_z]`, means and log-variances.
      n_z: latent channels.
      weight: of the divergence, which is summed over an image's latents and divided by its number
        of values: latent-diffusion's 1e-6 beside a loss that is summed over pixels.
      has_conv: a 1×1 convolution stands behind the encoder (latent-diffusion's `quant_conv`).
    """

    encoder: nn.Module
    n_z: int
    weight: float
    has_conv: bool = True

    def setup(self):
        """The convolution, if there is one."""
        if self.has_conv:
            self.quant_conv = conv(2 * self.n_z, 1, jnp.float32)

    def __call__(self, images: jax.Array) -> jax.Array:
        """The means, `[B, h, w, n_z]`."""
        return self._moments(images)[0]

    def train(self, images: jax.Array, noise: jax.Array) -> TrainingLatents:
        """A draw with standard normal `noise` `[B, h, w, n_z]`."""
        mean, log_variance = self._moments(images)
        latents = mean + jnp.exp(0.5 * log_variance) * noise
        divergence = 0.5 * (mean**2 + jnp.exp(log_variance) - 1 - log_variance)
        divergence = jnp.mean(jnp.sum(divergence, axis=(1, 2, 3)))
        loss = self.weight * divergence / images[0].size
        return TrainingLatents(latents, loss, {"loss/kl": divergence})

    def _moments(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        moments = self.encoder(images)
        if self.has_conv:
            moments = self.quant_conv(moments)
        mean, log_variance = jnp.split(moments, 2, axis=-1)
        return mean, jnp.clip(log_variance, -30.0, 20.0)


class VQBottleneck(nn.Module, kw_only=True):
    """Latents that are each the nearest of learned codes (van den Oord et al. 2017).

    Gradients pass the quantization as if it were not there.

    Attributes:
      encoder: images → `[B, h, w, C]`.
      num_codes: of the codebook.
      n_z: width of a code.
      commitment: weight beta of what holds the encoder to the codes; of the codes' own term 1.
      is_normalized: codes and what they are compared with have length 1 (Yu et al. 2022).
      is_legacy: beta is on the codes' term instead, as VQGAN's weights were trained.
    """

    encoder: nn.Module
    num_codes: int
    n_z: int
    commitment: float
    is_normalized: bool = False
    is_legacy: bool = False

    def setup(self):
        """The codebook, and the 1×1 convolution to the codes' width."""
        self.quant_conv = conv(self.n_z, 1, jnp.float32)
        self.codebook = self.param("codebook", _codes_init, (self.num_codes, self.n_z))

    def __call__(self, images: jax.Array) -> jax.Array:
        """The codes, `[B, h, w, n_z]`."""
        return self._quantize(images)[1]

    def train(self, images: jax.Array, noise: jax.Array) -> TrainingLatents:
        """The codes; `noise` is unused."""
        del noise
        z, codes, indices = self._quantize(images)
        to_codes = jnp.mean((z - jax.lax.stop_gradient(codes)) ** 2)
        to_latents = jnp.mean((codes - jax.lax.stop_gradient(z)) ** 2)
        if self.is_legacy:
            loss = to_codes + self.commitment * to_latents
        else:
            loss = to_latents + self.commitment * to_codes
        counts = jnp.zeros(self.num_codes).at[indices.reshape(-1)].add(1.0)
        metrics = {
            "loss/vq": loss,
            "codes/usage": jnp.mean(counts > 0),
            "codes/perplexity": _perplexity(counts),
        }
        latents = z + jax.lax.stop_gradient(codes - z)
        return TrainingLatents(latents, loss, metrics)

    def _quantize(self, images: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns what is quantized, its codes `[B, h, w, n_z]`, and their indices `[B, h, w]`."""
        z, codebook = self.quant_conv(self.encoder(images)), self.codebook
        if self.is_normalized:
            z, codebook = _unit_length(z), _unit_length(codebook)
        # |z - e|^2, less |z|^2, which is the same for all codes.
        products = jnp.einsum("bhwc,nc->bhwn", z, codebook, precision="highest")
        distances = jnp.sum(codebook**2, axis=-1) - 2 * products
        indices = jnp.argmin(distances, axis=-1)
        return z, codebook[indices], indices


def _codes_init(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Uniform within 1 / num_codes of 0, as VQGAN's."""
    return jax.random.uniform(key, shape, minval=-1 / shape[0], maxval=1 / shape[0])


def _unit_length(x: jax.Array) -> jax.Array:
    squared = jnp.sum(x**2, axis=-1, keepdims=True)
    return x / jnp.sqrt(jnp.maximum(squared, 1e-24))  # a gradient at 0 too


def _perplexity(counts: jax.Array) -> jax.Array:
    """`exp` of the entropy of how often each code is used: all codes alike give their number."""
    shares = counts / jnp.sum(counts)
    return jnp.exp(-jnp.sum(shares * jnp.log(jnp.maximum(shares, 1e-10))))
