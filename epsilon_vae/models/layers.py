"""Layers that the encoder, the UNet and the discriminator share.

Parameters are float32; convolutions and dense layers compute in `dtype`; GroupNorm statistics and
affine maps are always float32 (the paper's training is bfloat16 on TPU, where a bfloat16 variance
would lose the signal).
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer

from epsilon_vae.parallel.sharding import gather_rows, shard_images, space_devices

# PyTorch's default, which ADM and LDM train with: uniform of variance 1 / (3 fan_in).
torch_init: Initializer = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
zeros_init: Initializer = nn.initializers.zeros_init()
xavier_init: Initializer = nn.initializers.xavier_uniform()

# Attention over more tokens than this goes block by block; the paper's 128 px has no more.
MAX_WHOLE_TOKENS = 1024
QUERY_BLOCK = 128  # on each device that shares an image's rows


def _convolutions(primitive, *_, **__) -> bool:
    """Keeps what a convolution or a matrix product gave, but not norms and activations."""
    return primitive in (jax.lax.conv_general_dilated_p, jax.lax.dot_general_p)


# What a block keeps of its forward pass for the backward one; the rest is computed again.
REMAT_POLICIES = {
    "none": jax.checkpoint_policies.everything_saveable,
    "convs": _convolutions,
    "full": jax.checkpoint_policies.nothing_saveable,
}


def rematerialized(module: nn.Module, remat: str) -> Callable[..., jax.Array]:
    """`module` under one of `REMAT_POLICIES`; its parameters and results stay the same.

    Its backward pass stays together: it computes again only once the gradient of its result is
    there, and passes on its input's gradient only with those of its parameters. Left to itself, the
    compiler (JAX 0.10.2, TPU) sums the gradients of all levels' norms and biases in one operation,
    and keeps every level's activations until then: 19.6 instead of 10.7 GiB for `sd_h` at 256 px.
    """
    if remat == "none":
        return module

    def call(module: nn.Module, *inputs: jax.Array) -> jax.Array:
        return module(*inputs)

    call = nn.remat(call, policy=REMAT_POLICIES[remat])

    def forward(module: nn.Module, *inputs: jax.Array):
        return nn.vjp(call, module, *inputs)

    def backward(vjp, grad: jax.Array):
        vjp, grad = jax.lax.optimization_barrier((vjp, grad))
        return jax.lax.optimization_barrier(vjp(grad))

    return functools.partial(nn.custom_vjp(call, forward, backward), module)


def conv(
    features: int,
    kernel: int,
    dtype: jnp.dtype,
    *,
    strides: int = 1,
    padding: str | int | tuple = "SAME",
    use_bias: bool = True,
    groups: int = 1,
    kernel_init: Initializer = torch_init,
    name: str | None = None,
) -> nn.Conv:
    """A square convolution over `[B, H, W, C]` with this project's defaults.

    Args:
      features: output channels.
      kernel: side of the kernel, in pixels.
      dtype: that it computes in.
      strides, padding, use_bias, groups, kernel_init, name: as Flax's.
    """
    return nn.Conv(
        features,
        (kernel, kernel),
        strides=strides,
        padding=padding,
        use_bias=use_bias,
        feature_group_count=groups,
        dtype=dtype,
        kernel_init=kernel_init,
        name=name,
    )


def dense(
    features: int,
    dtype: jnp.dtype,
    *,
    use_bias: bool = True,
    kernel_init: Initializer = torch_init,
    name: str | None = None,
) -> nn.Dense:
    """A linear layer over the last axis with this project's defaults.

    Args:
      features: of the output.
      dtype: that it computes in.
      use_bias, kernel_init, name: as Flax's.
    """
    return nn.Dense(features, use_bias=use_bias, dtype=dtype, kernel_init=kernel_init, name=name)


@contextlib.contextmanager
def measured_of_first(count: int) -> Iterator[None]:
    """Traces networks whose GroupNorms measure mean and variance of the first `count` images.

    Of these together, for all of the batch: tiles are a part of a larger image, and the first of a
    batch stand for it.
    """

    def norm(next_call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext):
        module = context.module
        if not isinstance(module, nn.GroupNorm) or context.method_name != "__call__":
            return next_call(*args, **kwargs)
        x = args[0].astype(jnp.float32)
        grouped = x.reshape(*x.shape[:3], module.num_groups, -1)
        axes = (0, 1, 2, 4)
        mean = grouped[:count].mean(axes, keepdims=True)
        variance = grouped[:count].var(axes, keepdims=True)
        normed = (grouped - mean) * jax.lax.rsqrt(variance + module.epsilon)
        scale, bias = (module.get_variable("params", name) for name in ("scale", "bias"))
        return normed.reshape(x.shape) * scale + bias

    with nn.intercept_methods(norm):
        yield


class GroupNorm(nn.Module):
    """Affine GroupNorm of `[B, H, W, C]`, computed in float32 and returned in the input's dtype."""

    groups: int = 32
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        norm = nn.GroupNorm(self.groups, epsilon=self.epsilon, dtype=jnp.float32, name="norm")
        return norm(x).astype(x.dtype)


class ResidualBlock(nn.Module, kw_only=True):
    """GN–swish–conv–GN–swish–conv on a residual; a 1×1 shortcut where channels change.

    LDM's with biases, MaskGIT's without.
    """

    features: int
    groups: int
    epsilon: float
    use_bias: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = nn.swish(GroupNorm(self.groups, self.epsilon, name="norm1")(x))
        h = conv(self.features, 3, self.dtype, use_bias=self.use_bias, name="conv1")(h)
        h = nn.swish(GroupNorm(self.groups, self.epsilon, name="norm2")(h))
        h = conv(self.features, 3, self.dtype, use_bias=self.use_bias, name="conv2")(h)
        if x.shape[-1] != self.features:
            x = conv(self.features, 1, self.dtype, use_bias=self.use_bias, name="shortcut")(x)
        return shard_images(x + h)


class AdaGN(nn.Module):
    """Adaptive GroupNorm: `GN(x) * (1 + scale) + shift` (Dhariwal & Nichol 2021, Eq. in sec. 3).

    `scale` and `shift` are a linear map of the time embedding `[B, E]` and, where `latents` are
    given, additionally a 1×1 convolution of them, resized to x's height and width.
    """

    groups: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, x: jax.Array, embedding: jax.Array, latents: jax.Array | None = None
    ) -> jax.Array:
        channels = x.shape[-1]
        modulation = dense(2 * channels, self.dtype, name="modulation")(nn.silu(embedding))
        modulation = modulation[:, None, None, :]
        if latents is not None:
            local = resize_bilinear(latents, x.shape[1:3])
            modulation = modulation + conv(2 * channels, 1, self.dtype, name="latents")(local)
        scale, shift = jnp.split(modulation.astype(jnp.float32), 2, axis=-1)
        normed = GroupNorm(self.groups, name="norm")(x.astype(jnp.float32))
        return (normed * (1 + scale) + shift).astype(x.dtype)


class SelfAttention(nn.Module, kw_only=True):
    """Residual self-attention over the positions of `[B, H, W, C]`: GN, qkv, attention, projection.

    Attributes:
      head_dim: width of a head; None means one head over all channels.
      groups, epsilon: of the GroupNorm.
      out_init: initializer of the projection (zeros make the block the identity at the start).
    """

    head_dim: int | None
    groups: int
    epsilon: float
    dtype: jnp.dtype
    out_init: Initializer = torch_init

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height, width, channels = x.shape
        head_dim = self.head_dim or channels
        h = GroupNorm(self.groups, self.epsilon, name="norm")(x)
        qkv = dense(3 * channels, self.dtype, name="qkv")(h)
        qkv = qkv.reshape(batch, height * width, 3, channels // head_dim, head_dim)
        h = attend(*jnp.moveaxis(qkv, 2, 0))
        h = h.reshape(batch, height, width, channels)
        out = dense(channels, self.dtype, kernel_init=self.out_init, name="out")(h)
        return shard_images(x + out)


class BlockNetwork(nn.Module, kw_only=True):
    """A network whose residual blocks, and attention with one head, share their settings.

    Attributes:
      use_bias: of the blocks' convolutions: latent diffusion's have biases, MaskGIT's have none.
      groups, epsilon: of the GroupNorms.
      remat: of each residual and attention block, one of `REMAT_POLICIES`.
    """

    use_bias: ClassVar[bool]

    dtype: jnp.dtype = jnp.float32
    groups: int = 32
    epsilon: float = 1e-6
    remat: str = "none"

    @nn.nowrap
    def residual(self, h: jax.Array, features: int, *, name: str) -> jax.Array:
        """Applies a residual block: `[B, H, W, C]` → `[B, H, W, features]`."""
        block = ResidualBlock(
            features=features,
            groups=self.groups,
            epsilon=self.epsilon,
            use_bias=self.use_bias,
            dtype=self.dtype,
            name=name,
        )
        return rematerialized(block, self.remat)(h)

    @nn.nowrap
    def attention(self, h: jax.Array, *, name: str) -> jax.Array:
        """Applies self-attention to `[B, H, W, C]`."""
        block = SelfAttention(
            head_dim=None, groups=self.groups, epsilon=self.epsilon, dtype=self.dtype, name=name
        )
        return rematerialized(block, self.remat)(h)

    @nn.nowrap
    def output(self, h: jax.Array, features: int, *, kernel: int = 3) -> jax.Array:
        """The last layers, GN–swish–conv: `[B, H, W, C]` → float32 `[B, H, W, features]`."""
        h = nn.swish(GroupNorm(self.groups, self.epsilon, name="norm_out")(h))
        return conv(features, kernel, self.dtype, name="conv_out")(h).astype(jnp.float32)


def attend(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Softmax attention over `[B, tokens, heads, head_dim]`, exact at any size.

    Above `MAX_WHOLE_TOKENS` it goes through the queries block by block, forward and backward, so
    that memory is linear in the tokens: a 2048 × 2048 image has 65,536 of them at an eighth of its
    size, and their whole matrix would take 17 GB a head. On a mesh, queries stay on the device of
    their rows; keys and values are gathered.
    """
    batch, tokens, heads, head_dim = query.shape
    query, key, value = shard_images(query), gather_rows(key), gather_rows(value)
    if tokens <= MAX_WHOLE_TOKENS:
        return jax.nn.dot_product_attention(query, key, value)
    size = QUERY_BLOCK * space_devices()
    blocks = -(-tokens // size)
    query = jnp.pad(query, ((0, 0), (0, blocks * size - tokens), (0, 0), (0, 0)))
    # Block i takes queries i, i + blocks, …: some of every device's rows.
    query = jnp.moveaxis(query.reshape(batch, size, blocks, heads, head_dim), 2, 0)

    @jax.checkpoint
    def attend_block(block: jax.Array) -> jax.Array:
        return jax.nn.dot_product_attention(shard_images(block), key, value)

    out = jnp.moveaxis(jax.lax.map(attend_block, query), 0, 2)
    return out.reshape(batch, -1, heads, head_dim)[:, :tokens]


class TimeEmbedding(nn.Module, kw_only=True):
    """Times `[B]` in [0, 1] → `[B, features]`: sinusoids (cosines first), then a two-layer MLP.

    The sinusoid's argument is `time_scale * t`, so that t = 1 is DDPM's step 1000, the range that
    the frequencies 1 … 1/10000 were chosen for.
    """

    sinusoid_dim: int
    features: int
    dtype: jnp.dtype
    time_scale: float = 1000.0
    kernel_init: Initializer = torch_init

    @nn.compact
    def __call__(self, t: jax.Array) -> jax.Array:
        half = self.sinusoid_dim // 2
        frequencies = jnp.exp(-jnp.log(10000.0) * jnp.arange(half, dtype=jnp.float32) / half)
        angles = self.time_scale * t.astype(jnp.float32)[:, None] * frequencies
        sinusoid = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)

        def layer(name: str) -> nn.Dense:
            return dense(self.features, self.dtype, kernel_init=self.kernel_init, name=name)

        return layer("out")(nn.silu(layer("hidden")(sinusoid)))


def avg_pool_2x2(x: jax.Array) -> jax.Array:
    """Mean over 2×2 windows: `[B, H, W, C]` → `[B, H/2, W/2, C]`."""
    return nn.avg_pool(x, (2, 2), strides=(2, 2))


def upsample_nearest(x: jax.Array, factor: int = 2) -> jax.Array:
    """Nearest-neighbour upsampling: `[B, H, W, C]` → `[B, factor H, factor W, C]`."""
    batch, height, width, channels = x.shape
    x = x[:, :, None, :, None, :]
    x = jnp.broadcast_to(x, (batch, height, factor, width, factor, channels))
    return x.reshape(batch, height * factor, width * factor, channels)


def depth_to_space(x: jax.Array, factor: int = 2) -> jax.Array:
    """`[B, H, W, factor² C]` → `[B, factor H, factor W, C]`: channels become a square of pixels."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height, width, factor, factor, channels // factor**2)
    x = x.transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, factor * height, factor * width, channels // factor**2)


def space_to_depth(x: jax.Array, factor: int) -> jax.Array:
    """The inverse of `depth_to_space`."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // factor, factor, width // factor, factor, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, height // factor, width // factor, factor**2 * channels)


def resize_bilinear(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Bilinear resize of `[B, h, w, C]` to `[B, *size, C]` (antialiased when it shrinks)."""
    return jax.image.resize(x, (x.shape[0], *size, x.shape[-1]), "bilinear")


Resample = Callable[[jax.Array], jax.Array]
