"""The denoising decoder G(x_t, t, z): the ADM UNet, and the DDPM UNet of the paper's ablation.

One class serves both, as in guided-diffusion: ADM (Dhariwal & Nichol 2021) resamples inside
residual blocks and conditions on time by AdaGN, DDPM (Ho et al. 2020) resamples by convolutions and
adds the time embedding.
"""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from epsilon_vae.models.layers import (
    AdaGN,
    GroupNorm,
    Resample,
    SelfAttention,
    TimeEmbedding,
    avg_pool_2x2,
    conv,
    dense,
    rematerialized,
    upsample_nearest,
    zeros_init,
)
from epsilon_vae.parallel.sharding import shard_images

# Widths and depths of the paper's decoders (Table 6), with attention derived from the published
# parameter counts. `tiny` is ours, of 0.8 to 1.1 M parameters as the other decoders' `tiny`, for a
# small study of them; `small` too, for whole photos on a CPU: its only attention, in the middle, is
# at 1/16 of the resolution. `micro` is for tests of all but the networks: the least that is one, to
# be compiled in two seconds.
UNET_SIZES = {
    "micro": {
        "channels": 16,
        "blocks": 0,
        "attention_factors": (),
        "multipliers": (1,),
        "head_dim": 16,
        "groups": 8,
    },
    "tiny": {
        "channels": 32,
        "blocks": 1,
        "attention_factors": (4,),
        "multipliers": (1, 1, 2),
        "head_dim": 32,
        "groups": 8,
    },
    "small": {
        "channels": 32,
        "blocks": 2,
        "attention_factors": (),
        "multipliers": (1, 1, 2, 2, 4),
        "head_dim": 32,
        "groups": 8,
    },
    "b": {"channels": 64, "blocks": 2, "attention_factors": (8,)},
    "m": {"channels": 96, "blocks": 2, "attention_factors": (8, 16)},
    "l": {"channels": 128, "blocks": 2, "attention_factors": (4, 8, 16)},
    "xl": {"channels": 128, "blocks": 4, "attention_factors": (4, 8, 16)},
    "h": {"channels": 256, "blocks": 2, "attention_factors": (4, 8, 16)},
}

# What makes the UNet the one of the paper's ablation instead of ADM's: Ho et al. 2020.
DDPM_UNET = {"adaptive_norm": False, "resample_in_blocks": False, "head_dim": None}


class UNetBlock(nn.Module, kw_only=True):
    """A residual block with time (and, for AdaGN conditioning, latents) in its second norm.

    Attributes:
      features: output channels.
      adaptive_norm: AdaGN (ADM) or adding the projected time embedding (DDPM).
      resample: applied after the first norm and on the skip path: BigGAN's up and down blocks.
    """

    features: int
    adaptive_norm: bool
    groups: int
    dtype: jnp.dtype
    resample: Resample | None = None

    @nn.compact
    def __call__(
        self, x: jax.Array, embedding: jax.Array, latents: jax.Array | None = None
    ) -> jax.Array:
        h = nn.silu(GroupNorm(self.groups, name="norm1")(x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = conv(self.features, 3, self.dtype, name="conv1")(h)
        if self.adaptive_norm:
            h = AdaGN(self.groups, self.dtype, name="norm2")(h, embedding, latents)
        else:
            time = dense(self.features, self.dtype, name="time")(nn.silu(embedding))
            h = GroupNorm(self.groups, name="norm2")(h + time[:, None, None, :])
        h = nn.silu(h)
        h = conv(self.features, 3, self.dtype, kernel_init=zeros_init, name="conv2")(h)
        if x.shape[-1] != self.features:
            x = conv(self.features, 1, self.dtype, name="shortcut")(x)
        return shard_images(x + h)


class UNet(nn.Module, kw_only=True):
    """Noisy images `[B, H, W, 3]`, times `[B]`, latents `[B, H/f, W/f, n_z]` → prediction.

    The prediction has the images' shape. Height and width must be multiples of
    `2 ** (len(multipliers) - 1)`.

    Attributes:
      channels: base width; a level has `multiplier * channels`.
      blocks: residual blocks a level on the way down (one more on the way up).
      attention_factors: downsampling factors at which self-attention follows each residual block.
      head_dim: width of an attention head; None is a single head.
      conditioning: 'concat' (nearest-upsampled latents join the input channels) or 'adagn'
        (resized latents modulate every block's AdaGN; the paper's Table 7).
      adaptive_norm: AdaGN (ADM) or additive time embedding (DDPM).
      resample_in_blocks: BigGAN-style residual blocks (ADM) or plain convolutions (DDPM).
      remat: of each residual and attention block, one of `layers.REMAT_POLICIES`.
    """

    last_layer: ClassVar[str] = "conv_out"

    channels: int
    blocks: int
    attention_factors: tuple[int, ...]
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    head_dim: int | None = 64
    conditioning: str = "concat"
    adaptive_norm: bool = True
    resample_in_blocks: bool = True
    dtype: jnp.dtype = jnp.float32
    groups: int = 32
    out_channels: int = 3
    remat: str = "none"

    @nn.compact
    def __call__(self, x: jax.Array, t: jax.Array, latents: jax.Array) -> jax.Array:
        x, latents = x.astype(self.dtype), latents.astype(self.dtype)
        embedding_dim = 4 * self.channels
        embedding = TimeEmbedding(
            sinusoid_dim=self.channels, features=embedding_dim, dtype=self.dtype, name="time"
        )(t)
        if self.conditioning == "concat":
            factor = x.shape[1] // latents.shape[1]
            x = jnp.concatenate([x, upsample_nearest(latents, factor)], axis=-1)
            local = None
        else:
            local = latents

        def block(h: jax.Array, features: int, name: str, resample=None) -> jax.Array:
            module = UNetBlock(
                features=features,
                adaptive_norm=self.adaptive_norm,
                groups=self.groups,
                dtype=self.dtype,
                resample=resample,
                name=name,
            )
            return rematerialized(module, self.remat)(h, embedding, local)

        def attention(h: jax.Array, name: str) -> jax.Array:
            module = SelfAttention(
                head_dim=self.head_dim,
                groups=self.groups,
                epsilon=1e-5,
                dtype=self.dtype,
                out_init=zeros_init,
                name=name,
            )
            return rematerialized(module, self.remat)(h)

        h = shard_images(conv(self.channels, 3, self.dtype, name="conv_in")(x))
        skips = [h]
        last = len(self.multipliers) - 1
        for level, multiplier in enumerate(self.multipliers):
            for i in range(self.blocks):
                h = block(h, multiplier * self.channels, f"down{level}_block{i}")
                if 2**level in self.attention_factors:
                    h = attention(h, f"down{level}_attention{i}")
                skips.append(h)
            if level < last:
                h = self._downsample(h, block, f"down{level}_resample")
                skips.append(h)

        h = block(h, h.shape[-1], "middle_block0")
        h = attention(h, "middle_attention")
        h = block(h, h.shape[-1], "middle_block1")

        for level, multiplier in reversed(list(enumerate(self.multipliers))):
            for i in range(self.blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = block(h, multiplier * self.channels, f"up{level}_block{i}")
                if 2**level in self.attention_factors:
                    h = attention(h, f"up{level}_attention{i}")
            if level > 0:
                h = self._upsample(h, block, f"up{level}_resample")

        h = nn.silu(GroupNorm(self.groups, name="norm_out")(h))
        out = conv(self.out_channels, 3, self.dtype, kernel_init=zeros_init, name="conv_out")(h)
        return out.astype(jnp.float32)

    def _downsample(self, h: jax.Array, block, name: str) -> jax.Array:
        if self.resample_in_blocks:
            return block(h, h.shape[-1], name, avg_pool_2x2)
        return conv(h.shape[-1], 3, self.dtype, strides=2, padding=1, name=name)(h)

    def _upsample(self, h: jax.Array, block, name: str) -> jax.Array:
        if self.resample_in_blocks:
            return block(h, h.shape[-1], name, upsample_nearest)
        return conv(h.shape[-1], 3, self.dtype, name=name)(upsample_nearest(h))
