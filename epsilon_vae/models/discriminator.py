"""The trajectory discriminator D(concat(x0, x_t), t) (paper, Eq. 10 and 11).

`patch` is a PatchGAN (Isola et al. 2017) in VQGAN's layout, `residual` a residual network without
norms. Both are fully convolutional, so that their weights serve a fine-tuning at a higher
resolution, and both compute in float32 whatever the other networks compute in: R1 is a gradient's
gradient, and real and fake may differ by little.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from epsilon_vae.models.layers import (
    AdaGN,
    TimeEmbedding,
    avg_pool_2x2,
    conv,
    dense,
    torch_init,
    zeros_init,
)
from epsilon_vae.parallel.sharding import shard_images

DTYPE = jnp.float32
he_init = nn.initializers.he_normal()


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


class PatchConv(nn.Module):
    """A 4×4 convolution of padding 1, no bias: `[B, H, W, C]` → `[B, H - 1, W - 1, features]`.

    Of images smaller than its kernel it is computed as a matrix product over the patches, which is
    the same sum: XLA's gradient to such an image is 40 times slower on a CPU (JAX 0.10.2), and the
    discriminator has 3 × 3 there at 32 px.
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        _, height, width, channels = x.shape
        kernel = self.param("kernel", torch_init, (4, 4, channels, self.features))
        if min(height, width) > 4:
            dimensions = ("NHWC", "HWIO", "NHWC")
            padding = ((1, 1), (1, 1))
            return jax.lax.conv_general_dilated(
                x, kernel, (1, 1), padding, dimension_numbers=dimensions
            )
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        patches = [x[:, i : i + height - 1, j : j + width - 1] for i in range(4) for j in range(4)]
        return jnp.concatenate(patches, axis=-1) @ kernel.reshape(-1, self.features)


class PatchDiscriminator(nn.Module):
    """Images `[B, H, W, C]`, times `[B]` → patch logits `[B, H/8 - 2, W/8 - 2, 1]`, for H, W ≥ 24.

    The paper's words, "discriminator architecture from VQGAN", its norms replaced by AdaGN with t.

    Attributes:
      channels: base width, doubled by each further layer: 64, 128, 256, 512 in the paper's.
    """

    channels: int = 64

    @nn.compact
    def __call__(self, x: jax.Array, t: jax.Array) -> jax.Array:
        embedding = TimeEmbedding(64, 256, DTYPE, name="time")(t)
        h = StridedConv(self.channels, True, DTYPE, name="conv0")(x)
        h = nn.leaky_relu(h, 0.2)
        for layer, features in enumerate((2 * self.channels, 4 * self.channels), start=1):
            h = StridedConv(features, False, DTYPE, name=f"conv{layer}")(h)
            h = nn.leaky_relu(AdaGN(32, DTYPE, name=f"norm{layer}")(h, embedding), 0.2)
        h = PatchConv(8 * self.channels, name="conv3")(h)
        h = nn.leaky_relu(AdaGN(32, DTYPE, name="norm3")(h, embedding), 0.2)
        return conv(1, 4, DTYPE, padding=1, name="conv_out")(h)


class ResidualDiscriminator(nn.Module):
    """Images `[B, H, W, C]`, times `[B]` → patch logits `[B, H/8, W/8, 1]`; H, W multiples of 8.

    Without norms, which divide out how much detail an image has. StyleGAN2's residual blocks
    (Karras et al. 2020), t added after each first convolution as in DDGAN (Xiao et al. 2022), with
    neither's last layers: logits of patches, fully convolutional. He initialisation.

    Attributes:
      channels: of the first convolution, doubled by each of the three blocks.
    """

    channels: int = 64

    @nn.compact
    def __call__(self, x: jax.Array, t: jax.Array) -> jax.Array:
        embedding = TimeEmbedding(64, 256, DTYPE, kernel_init=he_init, name="time")(t)
        h = _he_conv(self.channels, 3, name="conv_in")(x)
        for number in range(3):
            h = DownBlock(2 * h.shape[-1], name=f"block{number}")(h, embedding)
        return _he_conv(1, 3, name="conv_out")(nn.leaky_relu(h, 0.2))


class DownBlock(nn.Module):
    """Two 3×3 convolutions and halving on a residual: `[B, H, W, C]` → `[B, H/2, W/2, features]`.

    The sum is divided by sqrt(2), which keeps its variance; halving is the mean of 2×2.
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array, embedding: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        h = _he_conv(channels, 3, name="conv1")(nn.leaky_relu(x, 0.2))
        time = dense(channels, DTYPE, kernel_init=he_init, name="time")(nn.silu(embedding))
        h = nn.leaky_relu(h + time[:, None, None, :], 0.2)
        h = _he_conv(self.features, 3, name="conv2")(avg_pool_2x2(h))
        x = _he_conv(self.features, 1, use_bias=False, name="shortcut")(avg_pool_2x2(x))
        return shard_images((x + h) / jnp.sqrt(2.0))


def _he_conv(features: int, kernel: int, *, use_bias: bool = True, name: str) -> nn.Conv:
    return conv(features, kernel, DTYPE, use_bias=use_bias, kernel_init=he_init, name=name)


DISCRIMINATORS = {"patch": PatchDiscriminator, "residual": ResidualDiscriminator}
