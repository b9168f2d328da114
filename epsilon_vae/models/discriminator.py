"""The trajectory discriminator D(concat(x0, x_t), t) (paper, Eq. 10 and 11).

PatchGAN (Isola et al. 2017) in VQGAN's layout, its norms replaced by AdaGN with t. Fully
convolutional, so that its weights serve a fine-tuning at a higher resolution.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from epsilon_vae.models.layers import AdaGN, TimeEmbedding, conv, torch_init, zeros_init
from epsilon_vae.parallel.sharding import shard_images


class StridedConv(nn.Module):
    """A 4×4 convolution of stride 2 and padding 1: `[B, H, W, C]` → `[B, H/2, W/2, features]`.

    Computed as space-to-depth and a dense 2×2 convolution, which is the same sum: the gradient of a
    strided convolution is a dilated one, 40 times slower on a CPU. H and W must be even.
    """

    features: int
    use_bias: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height, width, channels = x.shape
        kernel = self.param("kernel", torch_init, (4, 4, channels, self.features))
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        x = x.reshape(batch, height // 2 + 1, 2, width // 2 + 1, 2, channels)
        x = x.transpose(0, 1, 3, 2, 4, 5)
        x = x.reshape(batch, height // 2 + 1, width // 2 + 1, 4 * channels)
        kernel = kernel.reshape(2, 2, 2, 2, channels, self.features).transpose(0, 2, 1, 3, 4, 5)
        kernel = kernel.reshape(2, 2, 4 * channels, self.features)
        y = jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            (1, 1),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        if self.use_bias:
            y = y + self.param("bias", zeros_init, (self.features,)).astype(self.dtype)
        return shard_images(y)


class Discriminator(nn.Module):
    """Images `[B, H, W, C]`, times `[B]` → patch logits `[B, H/8 - 2, W/8 - 2, 1]`, for H, W ≥ 24.

    Attributes:
      channels: base width, doubled by each further layer: 64, 128, 256, 512 in the paper's.
    """

    channels: int = 64
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, t: jax.Array) -> jax.Array:
        embedding = TimeEmbedding(64, 256, self.dtype, name="time")(t)
        h = StridedConv(self.channels, True, self.dtype, name="conv0")(x)
        h = nn.leaky_relu(h, 0.2)
        for layer, features in enumerate((2 * self.channels, 4 * self.channels), start=1):
            h = StridedConv(features, False, self.dtype, name=f"conv{layer}")(h)
            h = nn.leaky_relu(AdaGN(32, self.dtype, name=f"norm{layer}")(h, embedding), 0.2)
        h = conv(8 * self.channels, 4, self.dtype, padding=1, use_bias=False, name="conv3")(h)
        h = nn.leaky_relu(AdaGN(32, self.dtype, name="norm3")(h, embedding), 0.2)
        return conv(1, 4, self.dtype, padding=1, name="conv_out")(h).astype(jnp.float32)
