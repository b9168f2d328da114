"""Deterministic decoders: latents `[B, h, w, n_z]` → images `[B, f h, f w, 3]`.

They take a denoising decoder's arguments, whose noisy images and times mean nothing to them: what
they predict is the image (`diffusion.path.Direct`). As every decoder they name their last layer,
where the GAN's gradient is compared with the others'.
"""

from collections.abc import Sequence
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from epsilon_vae.models.layers import (
    BlockNetwork,
    conv,
    depth_to_space,
    upsample_nearest,
)
from epsilon_vae.parallel.sharding import shard_images

# Widths and depths; the VAE's are those of the paper's decoders, `unet.UNET_SIZES` (Table 8).
VAE_SIZES = {
    "micro": {"channels": 16, "blocks": 0, "groups": 8},
    "tiny": {"channels": 32, "blocks": 1, "groups": 8},
    "b": {"channels": 64, "blocks": 2},
    "m": {"channels": 96, "blocks": 2},
    "l": {"channels": 128, "blocks": 2},
    "xl": {"channels": 128, "blocks": 4},
    "h": {"channels": 256, "blocks": 2},
}
SD_SIZES = {
    "micro": {"channels": 16, "blocks": 0, "groups": 8},
    "tiny": {"channels": 40, "blocks": 1, "groups": 8},
    "m": {},  # SD-VAE's own
}
ASYM_SIZES = {  # Asym-VAE's public ones, 1.5 and 2 times as wide as SD-VAE's
    "micro": {"channels": 16, "blocks": 0, "groups": 8},
    "tiny": {"channels": 32, "blocks": 1, "groups": 8},
    "l": {"channels": 192, "blocks": 4},
    "xl": {"channels": 256, "blocks": 6},
}


class VAEDecoder(BlockNetwork, kw_only=True):
    """The paper's "VAE (B…H)" (Table 8): the mirror of `LiteEncoder`, in MaskGIT's layout.

    Attributes:
      multipliers: channels of each level over `channels`, as the encoder's; f = 2^(levels - 1).
      channels: base width.
      blocks: residual blocks a level, and before the first one.
    """

    use_bias: ClassVar[bool] = False
    last_layer: ClassVar[str] = "conv_out"

    channels: int
    blocks: int
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)

    @nn.compact
    def __call__(self, x: jax.Array, t: jax.Array, latents: jax.Array) -> jax.Array:
        del x, t

        widest = self.multipliers[-1] * self.channels
        h = conv(widest, 3, self.dtype, name="conv_in")(latents.astype(self.dtype))
        for i in range(self.blocks):
            h = self.residual(h, widest, name=f"bottleneck_block{i}")
        for level, multiplier in reversed(list(enumerate(self.multipliers))):
            features = multiplier * self.channels
            for i in range(self.blocks):
                h = self.residual(h, features, name=f"level{level}_block{i}")
            if level > 0:
                h = conv(4 * features, 3, self.dtype, name=f"level{level}_up")(h)
                h = shard_images(depth_to_space(h))
        return self.output(h, 3)


class SDDecoder(BlockNetwork, kw_only=True):
    """Latent diffusion's (Rombach et al. 2022), of SD-VAE, SDXL's VAE, VQGAN and Asym-VAE.

    Attributes:
      multipliers: channels of each level over `channels`, as `SDEncoder`'s.
      channels: base width, 128 in SD-VAE.
      blocks: residual blocks a level, 3 in SD-VAE: one more than its encoder's.
      last_attention: self-attention after each block of the last level too, as VQGAN and LlamaGen.
      conv_channels: of a 1×1 convolution of the latents (latent-diffusion's `post_quant_conv`);
        None leaves it out.
      takes_mask: has the weights to be told a part of the image (Zhu et al. 2023), see `__call__`.
    """

    use_bias: ClassVar[bool] = True
    last_layer: ClassVar[str] = "conv_out"

    multipliers: tuple[int, ...]
    channels: int = 128
    blocks: int = 3
    last_attention: bool = False
    conv_channels: int | None = None
    takes_mask: bool = False

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        t: jax.Array,
        latents: jax.Array,
        *,
        image: jax.Array | None = None,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """The image; `x` and `t` are unused.

        With a mask, only what it covers is decoded from the latents alone: elsewhere the features
        of each level are those of `image`. Without one, all is. Training gives none, so that those
        weights stay as they are initialised or loaded.

        Args:
          x, t: of a denoising decoder.
          latents: `[B, h, w, n_z]`.
          image: `[B, f h, f w, 3]` in [-1, 1], known where the mask is 0.
          mask: `[B, f h, f w, 1]`, 1 where the image is to be generated and 0 where it is known.

        Raises:
          ValueError: image or mask without the other, or for a decoder without `takes_mask`.
        """
        del x, t
        widths = [multiplier * self.channels for multiplier in self.multipliers]
        known = self._known(widths, image, mask)

        h, last = latents.astype(self.dtype), len(widths) - 1
        if self.conv_channels is not None:
            h = conv(self.conv_channels, 1, self.dtype, name="post_quant_conv")(h)
        h = conv(widths[last], 3, self.dtype, name="conv_in")(h)
        h = self.residual(h, widths[last], name="middle_block0")
        h = self.attention(h, name="middle_attention")
        h = self.residual(h, widths[last], name="middle_block1")
        for level, width in reversed(list(enumerate(widths))):
            h = _with_known(h, known, mask)
            for i in range(self.blocks):
                h = self.residual(h, width, name=f"level{level}_block{i}")
                if self.last_attention and level == last:
                    h = self.attention(h, name=f"level{level}_attention{i}")
            if level > 0:
                h = conv(width, 3, self.dtype, name=f"level{level}_up")(upsample_nearest(h))
        h = _with_known(h, known, mask)
        return self.output(h, 3)

    def _known(
        self, widths: list[int], image: jax.Array | None, mask: jax.Array | None
    ) -> list[jax.Array]:
        """Features of the known part, from the finest to the coarsest; none without a mask."""
        if (image is None) != (mask is None) or (mask is not None and not self.takes_mask):
            raise ValueError("image and mask go together, and to a decoder with takes_mask alone")
        if self.takes_mask and self.is_initializing() and mask is None:
            size = 2 ** (len(widths) - 1)
            KnownFeatures(widths, self.dtype, name="known")(jnp.zeros((1, size, size, 3)))
        if mask is None:
            return []
        return KnownFeatures(widths, self.dtype, name="known")((1 - mask) * image)


def _with_known(h: jax.Array, known: list[jax.Array], mask: jax.Array | None) -> jax.Array:
    """`h` where the mask is 1, elsewhere the coarsest features, which are taken off `known`."""
    if mask is None:
        return h
    step = mask.shape[1] // h.shape[1]
    mask = mask[:, ::step, ::step].astype(h.dtype)
    return h * mask + known.pop() * (1 - mask)


class KnownFeatures(nn.Module):
    """Features of an image's known part, its other pixels 0, for each level of a decoder.

    `[B, H, W, 3]` → one map for what leaves the decoder's last level and one for what enters each,
    from the finest to the coarsest: H × W with the first two widths, then half and half again.

    Attributes:
      widths: of the decoder's levels.
    """

    widths: Sequence[int]
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, image: jax.Array) -> list[jax.Array]:
        h, maps = image.astype(self.dtype), []
        for i, width in enumerate((*self.widths, self.widths[-1])):
            if i < 2:
                h = conv(width, 3, self.dtype, name=f"conv{i}")(h)
            else:
                h = conv(width, 4, self.dtype, strides=2, padding=1, name=f"conv{i}")(h)
            maps.append(shard_images(h))
            h = nn.relu(h)
        return maps
