"""LiteVAE's encoder (Sadat et al. 2024, arXiv 2405.14477): Haar wavelets, then small UNets; f = 8.

Published: the layout (their Appendix G), the widths (Tables 23 and 24), n_z 12 as the number of
outputs (Table 24), 1.03, 6.75, 32.75 and 41.425 M parameters (Tables 2 and 3). Derived: two blocks
a level, no attention, and pooling without parameters, which give 1.036, 6.752, 32.751 and 41.425 M
at 12 outputs. Ours: means as pooling, the groups of the norms (the paper names 32, S has no more
than 16 channels at its first level), and ADM's epsilon.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from epsilon_vae.models.layers import ResidualBlock, avg_pool_2x2, conv, rematerialized

LEVELS = 3  # of the wavelet transform
BLOCKS = 2  # residual blocks a level of a UNet, and in its middle


class FlatUNet(nn.Module, kw_only=True):
    """A UNet whose levels differ in width alone: `[B, H, W, C]` → `[B, H, W, features]`.

    Attributes:
      features: output channels.
      widths: channels of each level.
      remat: of each residual block, one of `layers.REMAT_POLICIES`.
    """

    features: int
    widths: tuple[int, ...]
    dtype: jnp.dtype = jnp.float32
    epsilon: float = 1e-5
    remat: str = "none"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        groups = min(32, self.widths[0] // 2)

        def block(features: int, name: str) -> Callable[[jax.Array], jax.Array]:
            module = ResidualBlock(
                features=features,
                groups=groups,
                epsilon=self.epsilon,
                use_bias=True,
                dtype=self.dtype,
                name=name,
            )
            return rematerialized(module, self.remat)

        h = conv(self.widths[0], 3, self.dtype, name="conv_in")(x.astype(self.dtype))
        skips = []
        for level, width in enumerate(self.widths):
            for i in range(BLOCKS):
                h = block(width, f"down{level}_block{i}")(h)
                skips.append(h)
        for i in range(BLOCKS):
            h = block(self.widths[-1], f"middle_block{i}")(h)
        for level, width in reversed(list(enumerate(self.widths))):
            for i in range(BLOCKS):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = block(width, f"up{level}_block{i}")(h)
        return conv(self.features, 3, self.dtype, name="conv_out")(h)


class LiteVAEEncoder(nn.Module, kw_only=True):
    """Images `[B, H, W, 3]` → latents `[B, H/8, W/8, n_z]`; H and W must be multiples of 8.

    A UNet takes features from each level's sub-bands; their means over the last level's pixels go
    through one more UNet.

    Attributes:
      n_z: latent channels (2 n_z gives the layout of means and log-variances).
      extractor: widths of the UNets of the three wavelet levels.
      aggregator: of the last UNet.
      remat: of each residual block, one of `layers.REMAT_POLICIES`.
    """

    n_z: int
    extractor: tuple[int, ...]
    aggregator: tuple[int, ...]
    dtype: jnp.dtype = jnp.float32
    remat: str = "none"

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        def unet(features: int, widths: tuple[int, ...], name: str) -> FlatUNet:
            return FlatUNet(
                features=features, widths=widths, dtype=self.dtype, remat=self.remat, name=name
            )

        channels = images.shape[-1]
        low, features = images.astype(jnp.float32), []
        for level in range(LEVELS):
            bands = haar(low) / 2  # LL is then the mean of 2×2 pixels, in the images' range
            low = bands[..., :channels]
            h = unet(bands.shape[-1], self.extractor, f"extractor{level}")(bands)
            for _ in range(level + 1, LEVELS):
                h = avg_pool_2x2(h)
            features.append(h)
        h = jnp.concatenate(features, axis=-1)
        return unet(self.n_z, self.aggregator, "aggregator")(h).astype(jnp.float32)


def haar(x: jax.Array) -> jax.Array:
    """One level of the orthonormal Haar transform: `[B, H, W, C]` → `[B, H/2, W/2, 4 C]`.

    The sub-bands in PyWavelets' order: means (LL), then differences of rows, of columns, and of
    both. H and W must be even.
    """
    a, b = x[:, ::2, ::2], x[:, ::2, 1::2]
    c, d = x[:, 1::2, ::2], x[:, 1::2, 1::2]
    bands = [a + b + c + d, a + b - c - d, a - b + c - d, a - b - c + d]
    return jnp.concatenate(bands, axis=-1) / 2
