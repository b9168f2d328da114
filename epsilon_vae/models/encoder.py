"""Encoders E(x): images `[B, H, W, 3]` in [-1, 1] → latents `[B, H/f, W/f, n_z]`.

`SDEncoder` is the VQGAN / latent-diffusion encoder (Rombach et al. 2022), `LiteEncoder` the paper's
6 M parameter one, in MaskGIT's layout (Chang et al. 2022). Both are deterministic: the paper's
latents are neither quantized nor sampled.
"""

from typing import ClassVar

import flax.linen as nn
import jax

from epsilon_vae.models.layers import BlockNetwork, avg_pool_2x2, conv


class SDEncoder(BlockNetwork, kw_only=True):
    """Latent diffusion's: f = 2^(levels - 1) by strided convolutions, attention in the middle.

    Attributes:
      n_z: latent channels (2 n_z gives the mean and log-variance layout of SD-VAE).
      multipliers: channels of each level over `channels`; (1, 2, 4, 4) is f = 8.
      channels: base width, 128 in the paper.
      blocks: residual blocks a level.
      last_attention: self-attention after each block of the last level too, as VQGAN and LlamaGen.
    """

    use_bias: ClassVar[bool] = True

    n_z: int
    multipliers: tuple[int, ...]
    channels: int = 128
    blocks: int = 2
    last_attention: bool = False

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        last = len(self.multipliers) - 1
        h = conv(self.channels, 3, self.dtype, name="conv_in")(images.astype(self.dtype))
        for level, multiplier in enumerate(self.multipliers):
            for i in range(self.blocks):
                h = self.residual(h, multiplier * self.channels, name=f"level{level}_block{i}")
                if self.last_attention and level == last:
                    h = self.attention(h, name=f"level{level}_attention{i}")
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
        h = self.residual(h, h.shape[-1], name="middle_block0")
        h = self.attention(h, name="middle_attention")
        h = self.residual(h, h.shape[-1], name="middle_block1")
        return self.output(h, self.n_z)


class LiteEncoder(BlockNetwork, kw_only=True):
    """MaskGIT-style encoder: f = 2^(levels - 1) by average pooling, no attention, 1×1 output.

    Attributes: as `SDEncoder`'s; (1, 1, 2, 2, 4) × 64 channels is the paper's f = 16, 5.877 M.
    """

    use_bias: ClassVar[bool] = False

    n_z: int
    multipliers: tuple[int, ...]
    channels: int = 64
    blocks: int = 2

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        images = images.astype(self.dtype)
        h = conv(self.channels, 3, self.dtype, use_bias=False, name="conv_in")(images)
        for level, multiplier in enumerate(self.multipliers):
            for i in range(self.blocks):
                h = self.residual(h, multiplier * self.channels, name=f"level{level}_block{i}")
            if level < len(self.multipliers) - 1:
                h = avg_pool_2x2(h)
        for i in range(self.blocks):
            h = self.residual(h, h.shape[-1], name=f"bottleneck_block{i}")
        return self.output(h, self.n_z, kernel=1)
