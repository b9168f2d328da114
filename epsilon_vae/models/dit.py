"""Diffusion transformers (DiT; Peebles & Xie 2023, arXiv 2212.09748) with AdaLN-Zero blocks.

`DiT` is the transformer, given the vector that conditions it; `DiTDecoder` makes it the ε-VAE's
decoder, `ClassDiT` the published network, which generates latents. Tokens `[B, tokens, width]` are
patches in row order.
"""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from epsilon_vae.models.layers import (
    TimeEmbedding,
    attend,
    dense,
    depth_to_space,
    rematerialized,
    space_to_depth,
    upsample_nearest,
    xavier_init,
    zeros_init,
)
from epsilon_vae.parallel.sharding import shard_images

SINUSOID_DIM = 256  # of the time embedding
embedding_init = nn.initializers.normal(0.02)


DIT_SIZES = {  # as published; micro and tiny are ours
    "micro": {"depth": 1, "width": 16, "heads": 2},
    "tiny": {"depth": 4, "width": 112, "heads": 4},
    "s": {"depth": 12, "width": 384, "heads": 6},
    "b": {"depth": 12, "width": 768, "heads": 12},
    "l": {"depth": 24, "width": 1024, "heads": 16},
    "xl": {"depth": 28, "width": 1152, "heads": 16},
}


class AdaLN(nn.Module):
    """`parts` linear maps of SiLU(conditioning) `[B, E]`, zero at the start: `[B, 1, width]` each.

    In float32, as what they scale and shift.
    """

    parts: int
    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, conditioning: jax.Array) -> list[jax.Array]:
        features = self.parts * self.width
        layer = dense(features, self.dtype, kernel_init=zeros_init, name="modulation")
        modulation = layer(nn.silu(conditioning)).astype(jnp.float32)
        return jnp.split(modulation[:, None, :], self.parts, axis=-1)


def modulate(x: jax.Array, shift: jax.Array, scale: jax.Array) -> jax.Array:
    """`LN(x) * (1 + scale) + shift` of tokens, in float32 and returned in x's dtype."""
    norm = nn.LayerNorm(epsilon=1e-6, use_bias=False, use_scale=False, dtype=jnp.float32)
    return (norm(x) * (1 + scale) + shift).astype(x.dtype)


class DiTBlock(nn.Module):
    """Self-attention and an MLP of four times the width, each shifted, scaled and gated.

    Tokens `[B, tokens, width]` and conditioning `[B, E]` → tokens; the identity at the start.
    """

    heads: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, conditioning: jax.Array) -> jax.Array:
        batch, tokens, width = x.shape

        def linear(features: int, name: str) -> nn.Dense:
            return dense(features, self.dtype, kernel_init=xavier_init, name=name)

        adaptive = AdaLN(6, width, self.dtype, name="adaptive")(conditioning)
        shift1, scale1, gate1, shift2, scale2, gate2 = adaptive
        qkv = linear(3 * width, "qkv")(modulate(x, shift1, scale1))
        qkv = qkv.reshape(batch, tokens, 3, self.heads, width // self.heads)
        h = attend(*jnp.moveaxis(qkv, 2, 0)).reshape(batch, tokens, width)
        x = (x + gate1 * linear(width, "out")(h)).astype(self.dtype)
        h = nn.gelu(linear(4 * width, "mlp_hidden")(modulate(x, shift2, scale2)))
        x = (x + gate2 * linear(width, "mlp_out")(h)).astype(self.dtype)
        return shard_images(x)


class DiT(nn.Module, kw_only=True):
    """Images or latents `[B, H, W, C]`, conditioning `[B, E]` → `[B, H, W, out_channels]`.

    Height and width must be multiples of `patch`; there is no other limit on them, since positions
    are those of the patches at hand. The output is float32, and zero at the start.

    Attributes:
      depth: blocks.
      width: of a token, a multiple of 4 and of `heads`.
      patch: side of the square that becomes a token.
      remat: of each block, one of `layers.REMAT_POLICIES`.
    """

    depth: int
    width: int
    heads: int
    patch: int
    out_channels: int
    dtype: jnp.dtype = jnp.float32
    remat: str = "none"

    @nn.compact
    def __call__(self, x: jax.Array, conditioning: jax.Array) -> jax.Array:
        x = space_to_depth(x.astype(self.dtype), self.patch)
        batch, height, width, _ = x.shape
        x = dense(self.width, self.dtype, kernel_init=xavier_init, name="patch")(x)
        x = x + sincos_positions(height, width, self.width).astype(self.dtype)
        x = shard_images(x.reshape(batch, height * width, self.width))
        for i in range(self.depth):
            block = DiTBlock(self.heads, self.dtype, name=f"block{i}")
            x = rematerialized(block, self.remat)(x, conditioning)
        shift, scale = AdaLN(2, self.width, self.dtype, name="adaptive_out")(conditioning)
        features = self.patch**2 * self.out_channels
        out = dense(features, self.dtype, kernel_init=zeros_init, name="out")
        x = out(modulate(x, shift, scale)).reshape(batch, height, width, features)
        return depth_to_space(x, self.patch).astype(jnp.float32)


class DiTDecoder(nn.Module):
    """Noisy images `[B, H, W, 3]`, times `[B]`, latents `[B, H/f, W/f, n_z]` → prediction.

    The prediction has the images' shape. Latents are upsampled to it by nearest neighbour and join
    the input channels, as `unet.UNet`'s; only time conditions the norms.

    Attributes:
      dit: of 3 output channels.
    """

    last_layer: ClassVar[str] = "dit/out"

    dit: DiT

    @nn.compact
    def __call__(self, x: jax.Array, t: jax.Array, latents: jax.Array) -> jax.Array:
        latents = upsample_nearest(latents, x.shape[1] // latents.shape[1])
        time = time_embedding(self.dit)
        return self.dit(jnp.concatenate([x, latents], axis=-1), time(t))


class ClassDiT(nn.Module):
    """Noisy latents `[B, h, w, n_z]`, times `[B]`, labels `[B]` → prediction `[B, h, w, C]`.

    Labels are integers in 0 … num_classes - 1; `num_classes` stands for none, as in training for
    those that are dropped. Any other label gives NaN. In float32 this is the public code of DiT.

    Attributes:
      dit: of n_z output channels, or 2 n_z with a learned variance.
    """

    dit: DiT
    num_classes: int

    @nn.compact
    def __call__(self, x: jax.Array, t: jax.Array, labels: jax.Array) -> jax.Array:
        table = nn.Embed(
            self.num_classes + 1,
            self.dit.width,
            dtype=self.dit.dtype,
            embedding_init=embedding_init,
            name="labels",
        )
        return self.dit(x, time_embedding(self.dit)(t) + table(labels))


def time_embedding(dit: DiT) -> TimeEmbedding:
    """A time embedding of the width and with the initial weights that DiT's has."""
    return TimeEmbedding(
        sinusoid_dim=SINUSOID_DIM,
        features=dit.width,
        dtype=dit.dtype,
        kernel_init=embedding_init,
        name="time",
    )


def sincos_positions(height: int, width: int, features: int) -> jax.Array:
    """Fixed positions `[height, width, features]`: half of them the column's, half the row's.

    Sines, then cosines, of whole numbers times `10000 ** (-i / (features / 4))`.
    """

    def sinusoids(count: int) -> np.ndarray:
        frequencies = 10000.0 ** (-np.arange(features // 4) / (features // 4))
        angles = np.arange(count)[:, None] * frequencies
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1).astype(np.float32)

    # Joined by the compiler: whole, they would be a constant of hundreds of megabytes at 1024 px.
    shape = (height, width, features // 2)
    columns = jnp.broadcast_to(sinusoids(width)[None, :], shape)
    rows = jnp.broadcast_to(sinusoids(height)[:, None], shape)
    return jnp.concatenate([columns, rows], axis=-1)
