"""Deterministic decoders: latents `[B, h, w, n_z]` → images `[B, f h, f w, 3]`.

They take a denoising decoder's arguments, whose noisy images and times mean nothing to them: what
they predict is the image (`diffusion.path.Direct`).
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from epsilon_vae.models.layers import (
    GroupNorm,
    ResidualBlock,
    SelfAttention,
    conv,
    depth_to_space,
    rematerialized,
    upsample_nearest,
)
from epsilon_vae.parallel.sharding import shard_images


class VAEDecoder(nn.Module):
    """The paper's "VAE (B…H)" (Table 8): the mirror of `LiteEncoder`, in MaskGIT's layout.

    Attributes:
      multipliers: channels of each level over `channels`, as the encoder's; f = 2^(levels - 1).
      channels: base width.
      blocks: residual blocks a level, and before the first one.
      remat: of each residual block, one of `layers.REMAT_POLICIES`.
    """

    channels: int
    blocks: int
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    dtype: jnp.dtype = jnp.float32
    groups: int = 32
    epsilon: float = 1e-6
    remat: str = "none"

    @nn.compact
    def __call__(self, x: jax.Array, t: jax.Array, latents: jax.Array) -> jax.Array:
        del x, t

        def block(features: int, name: str) -> Callable[[jax.Array], jax.Array]:
            module = ResidualBlock(
                features, self.groups, self.epsilon, False, self.dtype, name=name
            )
            return rematerialized(module, self.remat)

        widest = self.multipliers[-1] * self.channels
        h = conv(widest, 3, self.dtype, name="conv_in")(latents.astype(self.dtype))
        for i in range(self.blocks):
            h = block(widest, f"bottleneck_block{i}")(h)
        for level, multiplier in reversed(list(enumerate(self.multipliers))):
            features = multiplier * self.channels
            for i in range(self.blocks):
                h = block(features, f"level{level}_block{i}")(h)
            if level > 0:
                h = conv(4 * features, 3, self.dtype, name=f"level{level}_up")(h)
                h = shard_images(depth_to_space(h))
        h = nn.swish(GroupNorm(self.groups, self.epsilon, name="norm_out")(h))
        return conv(3, 3, self.dtype, name="conv_out")(h).astype(jnp.float32)


class SDDecoder(nn.Module):
    """Latent diffusion's (Rombach et al. 2022), of SD-VAE, SDXL's VAE and VQGAN.

    Attributes:
      multipliers: channels of each level over `channels`, as `SDEncoder`'s.
      channels: base width, 128 in SD-VAE.
      blocks: residual blocks a level, 3 in SD-VAE: one more than its encoder's.
      last_attention: self-attention after each block of the last level too, as VQGAN and LlamaGen.
      conv_channels: of a 1×1 convolution of the latents (latent-diffusion's `post_quant_conv`);
        None leaves it out.
      remat: of each residual and attention block, one of `layers.REMAT_POLICIES`.
    """

    multipliers: tuple[int, ...]
    channels: int = 128
    blocks: int = 3
    dtype: jnp.dtype = jnp.float32
    groups: int = 32
    epsilon: float = 1e-6
    last_attention: bool = False
    conv_channels: int | None = None
    remat: str = "none"

    @nn.compact
    def __call__(self, x: jax.Array, t: jax.Array, latents: jax.Array) -> jax.Array:
        del x, t

        def block(features: int, name: str) -> Callable[[jax.Array], jax.Array]:
            module = ResidualBlock(features, self.groups, self.epsilon, True, self.dtype, name=name)
            return rematerialized(module, self.remat)

        def attention(name: str) -> Callable[[jax.Array], jax.Array]:
            module = SelfAttention(None, self.groups, self.epsilon, self.dtype, name=name)
            return rematerialized(module, self.remat)

        h = latents.astype(self.dtype)
        if self.conv_channels is not None:
            h = conv(self.conv_channels, 1, self.dtype, name="post_quant_conv")(h)
        widest, last = self.multipliers[-1] * self.channels, len(self.multipliers) - 1
        h = conv(widest, 3, self.dtype, name="conv_in")(h)
        h = block(widest, "middle_block0")(h)
        h = attention("middle_attention")(h)
        h = block(widest, "middle_block1")(h)
        for level, multiplier in reversed(list(enumerate(self.multipliers))):
            for i in range(self.blocks):
                h = block(multiplier * self.channels, f"level{level}_block{i}")(h)
                if self.last_attention and level == last:
                    h = attention(f"level{level}_attention{i}")(h)
            if level > 0:
                h = conv(h.shape[-1], 3, self.dtype, name=f"level{level}_up")(upsample_nearest(h))
        h = nn.swish(GroupNorm(self.groups, self.epsilon, name="norm_out")(h))
        return conv(3, 3, self.dtype, name="conv_out")(h).astype(jnp.float32)
