"""A denoising decoder whose noisy input goes around it too."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from epsilon_vae.models.layers import TimeEmbedding, dense, zeros_init

WIDTH = 64  # of the time's embedding


class InputSkip(nn.Module):
    """Adds the noisy images to a decoder's output, times a gain that is learned as a function of t.

    At t near 1 a velocity is the noise in x_t but for a part that the latents tell. A small network
    copies noise through its norms with an error of some percent, and `t / gamma` times that error
    stays in the estimate of x0 as colored noise. With the skip it has none to copy. The gain is one
    for each channel and starts at 0, so that at first this is the decoder alone.

    Attributes:
      decoder: (noisy images `[B, H, W, 3]`, times `[B]`, latents) → prediction `[B, H, W, 3]`.
    """

    decoder: nn.Module

    @property
    def last_layer(self) -> str:
        """Path of the decoder's last layer."""
        return f"decoder/{self.decoder.last_layer}"

    @nn.compact
    def __call__(self, x: jax.Array, t: jax.Array, latents: jax.Array) -> jax.Array:
        embedding = TimeEmbedding(
            sinusoid_dim=WIDTH, features=WIDTH, dtype=jnp.float32, name="time"
        )(t)
        gain = dense(x.shape[-1], jnp.float32, kernel_init=zeros_init, name="gain")
        return self.decoder(x, t, latents) + gain(nn.silu(embedding))[:, None, None, :] * x
