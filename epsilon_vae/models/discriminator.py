"""The trajectory discriminator D(concat(x0, x_t), t) (paper, Eq. 10 and 11).

`patch` is a PatchGAN (Isola et al. 2017) in VQGAN's layout, `residual` a residual network without
norms. Both are fully convolutional, so that their weights serve a fine-tuning at a higher
resolution, and both compute in float32 whatever the other networks compute in: R1 is a gradient's
gradient, and real and fake may differ by little.
"""

import functools

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


Padding = tuple[tuple[int, int], tuple[int, int]]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(x: jax.Array, kernel: jax.Array, padding: Padding) -> jax.Array:
    """A convolution of stride 1; gradients of its gradients are of the same three kinds.

    A convolution y = f(x, w) and its gradients g(y, w) to x and h(x, y) to w belong to one
    trilinear form, <y, f(x, w)> = <x, g(y, w)> = <w, h(x, y)>, so that each one's gradients are the
    other two. JAX's own gradient of g to w has y in the place of the image and x, which is larger,
    in that of the kernel: XLA takes 40 times as long for that on a CPU (JAX 0.10.2), and R1 needs
    it of every layer.
    """
    return _convolution(x, kernel, padding)


def _convolution(x: jax.Array, kernel: jax.Array, padding: Padding) -> jax.Array:
    dimensions = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=dimensions)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _to_image(y: jax.Array, kernel: jax.Array, shape: tuple[int, ...], padding: Padding):
    """g: the gradient of `convolve` to x, which has `shape`."""
    x = jax.ShapeDtypeStruct(shape, y.dtype)
    return jax.linear_transpose(lambda x: _convolution(x, kernel, padding), x)(y)[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _to_kernel(x: jax.Array, y: jax.Array, shape: tuple[int, ...], padding: Padding):
    """h: the gradient of `convolve` to its kernel, which has `shape`."""
    kernel = jax.ShapeDtypeStruct(shape, y.dtype)
    return jax.linear_transpose(lambda kernel: _convolution(x, kernel, padding), kernel)(y)[0]


def _gradients(x: jax.Array, kernel: jax.Array, y: jax.Array, padding: Padding) -> tuple:
    """Derivatives of the trilinear form by x, kernel and y."""
    to_image = _to_image(y, kernel, x.shape, padding)
    return to_image, _to_kernel(x, y, kernel.shape, padding), convolve(x, kernel, padding)


convolve.defvjp(
    lambda x, kernel, padding: (convolve(x, kernel, padding), (x, kernel)),
    lambda padding, kept, y: _gradients(*kept, y, padding)[:2],
)
_to_image.defvjp(
    lambda y, kernel, shape, padding: (_to_image(y, kernel, shape, padding), (y, kernel)),
    lambda shape, padding, kept, x: _gradients(x, kept[1], kept[0], padding)[:0:-1],
)
_to_kernel.defvjp(
    lambda x, y, shape, padding: (_to_kernel(x, y, shape, padding), (x, y)),
    lambda shape, padding, kept, kernel: _gradients(kept[0], kernel, kept[1], padding)[::2],
)


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
        y = convolve(x.astype(self.dtype), kernel.astype(self.dtype), ((0, 0), (0, 0)))
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
            return convolve(x, kernel, ((1, 1), (1, 1)))
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
        embedding = TimeEmbedding(sinusoid_dim=64, features=256, dtype=DTYPE, name="time")(t)
        h = StridedConv(self.channels, use_bias=True, dtype=DTYPE, name="conv0")(x)
        h = nn.leaky_relu(h, 0.2)
        for layer, features in enumerate((2 * self.channels, 4 * self.channels), start=1):
            h = StridedConv(features, use_bias=False, dtype=DTYPE, name=f"conv{layer}")(h)
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
        embedding = TimeEmbedding(
            sinusoid_dim=64, features=256, dtype=DTYPE, kernel_init=he_init, name="time"
        )(t)
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
