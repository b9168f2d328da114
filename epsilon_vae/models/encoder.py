"""Encoders E(x): images `[B, H, W, 3]` in [-1, 1] → latents `[B, H/f, W/f, n_z]`.

`SDEncoder` is the VQGAN / latent-diffusion encoder (Rombach et al. 2022), `LiteEncoder` the paper's
6 M parameter one, in MaskGIT's layout (Chang et al. 2022). Both are deterministic: the paper's
latents are neither quantized nor sampled.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from epsilon_vae.models.layers import (
    GroupNorm,
    ResidualBlock,
    SelfAttention,
    avg_pool_2x2,
    conv,
    rematerialized,
)


class SDEncoder(nn.Module, kw_only=True):
    """Latent diffusion's: f = 2^(levels - 1) by strided convolutions, attention in the middle.

    Attributes:
      n_z: latent channels (2 n_z gives the mean and log-variance layout of SD-VAE).
      multipliers: channels of each level over `channels`; (1, 2, 4, 4) is f = 8.
      channels: base width, 128 in the paper.
      blocks: residual blocks a level.
      last_attention: self-attention after each block of the last level too, as VQGAN and LlamaGen.
      remat: of each residual and attention block, one of `layers.REMAT_POLICIES`.
    """

    n_z: int
    multipliers: tuple[int, ...]
    channels: int = 128
    blocks: int = 2
    dtype: jnp.dtype = jnp.float32
    groups: int = 32
    epsilon: float = 1e-6
    last_attention: bool = False
    remat: str = "none"

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        def block(features: int, name: str) -> Callable[[jax.Array], jax.Array]:
            module = ResidualBlock(
                features=features,
                groups=self.groups,
                epsilon=self.epsilon,
                use_bias=True,
                dtype=self.dtype,
                name=name,
            )
            return rematerialized(module, self.remat)

        def attention(name: str) -> Callable[[jax.Array], jax.Array]:
            module = SelfAttention(
                head_dim=None, groups=self.groups, epsilon=self.epsilon, dtype=self.dtype, name=name
            )
            return rematerialized(module, self.remat)

        last = len(self.multipliers) - 1
        h = conv(self.channels, 3, self.dtype, name="conv_in")(images.astype(self.dtype))
        for level, multiplier in enumerate(self.multipliers):
            for i in range(self.blocks):
                h = block(multiplier * self.channels, f"level{level}_block{i}")(h)
                if self.last_attention and level == last:
                    h = attention(f"level{level}_attention{i}")(h)
            if level < last:
                # LDM pads only the right and the bottom before its strided convolution.
                h = conv(
                    h.shape[-1],
                    3,
                    self.dtype,
                    strides=2,
                    padding=((0, 1), (0, 1)),
                    name=f"level{level}_down",
                )(h)
        h = block(h.shape[-1], "middle_block0")(h)
        h = attention("middle_attention")(h)
        h = block(h.shape[-1], "middle_block1")(h)
        h = nn.swish(GroupNorm(self.groups, self.epsilon, name="norm_out")(h))
        return conv(self.n_z, 3, self.dtype, name="conv_out")(h).astype(jnp.float32)


class LiteEncoder(nn.Module, kw_only=True):
    """MaskGIT-style encoder: f = 2^(levels - 1) by average pooling, no attention, 1×1 output.

    Attributes: as `SDEncoder`'s; (1, 1, 2, 2, 4) × 64 channels is the paper's f = 16, 5.877 M.
    """

    n_z: int
    multipliers: tuple[int, ...]
    channels: int = 64
    blocks: int = 2
    dtype: jnp.dtype = jnp.float32
    groups: int = 32
    epsilon: float = 1e-6
    remat: str = "none"

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        def block(features: int, name: str) -> Callable[[jax.Array], jax.Array]:
            module = ResidualBlock(
                features=features,
                groups=self.groups,
                epsilon=self.epsilon,
                use_bias=False,
                dtype=self.dtype,
                name=name,
            )
            return rematerialized(module, self.remat)

        images = images.astype(self.dtype)
        h = conv(self.channels, 3, self.dtype, use_bias=False, name="conv_in")(images)
        for level, multiplier in enumerate(self.multipliers):
            for i in range(self.blocks):
                h = block(multiplier * self.channels, f"level{level}_block{i}")(h)
            if level < len(self.multipliers) - 1:
                h = avg_pool_2x2(h)
        for i in range(self.blocks):
            h = block(h.shape[-1], f"bottleneck_block{i}")(h)
        h = nn.swish(GroupNorm(self.groups, self.epsilon, name="norm_out")(h))
        return conv(self.n_z, 1, self.dtype, name="conv_out")(h).astype(jnp.float32)
