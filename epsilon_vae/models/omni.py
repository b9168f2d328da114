"""OmniTokenizer's VAE for images (Wang et al. 2024, arXiv 2406.09399): transformers over patches.

Facts from its public code (github.com/FoundationVision/OmniTokenizer, commit 701b619:
OmniTokenizer/omnitokenizer.py, OmniTokenizer/modules/attention.py, scripts/recons/train.sh): patch
8, width 512, 8 heads of 64, 4 spatial layers, "ttww" in the encoder and "tttt" in the decoder, 4
temporal ones, windows of 8 × 8, latents of 8 channels.

It is a video's tokenizer, to which an image is a first frame. This is what an image reaches of it,
46,440,288 of its 53,712,544 parameters, with the same result: no patches of later frames; of each
causal 3 × 3 × 3 convolution the last 3 × 3; and of temporal attention, which over one frame gives
that frame's value, neither queries nor keys.
"""

import functools
from collections.abc import Callable
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from epsilon_vae.models.layers import (
    attend,
    conv,
    dense,
    depth_to_space,
    rematerialized,
    space_to_depth,
)
from epsilon_vae.parallel.sharding import shard_images

LOGIT_SCALE = 8.0  # of the cosine of query and key
normal_init = nn.initializers.normal(0.02)


def layer_norm(x: jax.Array, *, use_bias: bool, name: str) -> jax.Array:
    """LayerNorm over channels, in float32 and returned in x's dtype."""
    norm = nn.LayerNorm(epsilon=1e-5, use_bias=use_bias, dtype=jnp.float32, name=name)
    return norm(x).astype(x.dtype)


OMNI_SIZES = {
    "micro": {"width": 16, "heads": 2, "depth": 1},
    "tiny": {"width": 32, "heads": 2, "depth": 2},
    "m": {},  # OmniTokenizer's own
}


class GlobalAttention(nn.Module):
    """Cosine attention of all of `[B, h, w, C]` with rotary positions: "t" of the public code.

    Queries see the normalised input, keys and values the input itself, as there.
    """

    heads: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height, width, channels = x.shape
        head_dim = channels // self.heads
        linear = functools.partial(_linear, dtype=self.dtype)
        query = linear(channels, name="query")(layer_norm(x, use_bias=False, name="norm"))
        key, value = jnp.split(linear(2 * channels, name="key_value")(x), 2, axis=-1)

        def prepared(x: jax.Array, name: str) -> jax.Array:
            scale = self.param(name, nn.initializers.ones, (head_dim,))
            x = x.astype(jnp.float32).reshape(batch, height, width, self.heads, head_dim)
            # Not by its length alone: where an image is constant, a new network's key is 0.
            length = jnp.sqrt(jnp.sum(x**2, axis=-1, keepdims=True) + 1e-6)
            return rotate(x / length) * scale

        query = prepared(query, "query_scale") * LOGIT_SCALE * np.sqrt(head_dim)  # `attend` divides
        key = prepared(key, "key_scale")
        shape = (batch, height * width, self.heads, head_dim)
        parts = [part.astype(self.dtype).reshape(shape) for part in (query, key, value)]
        return linear(channels, name="out")(attend(*parts).reshape(x.shape))


class WindowAttention(nn.Module):
    """Attention within each `window` × `window` square, with a learned bias for each offset: "w".

    Windows that the height or the width cuts off are attended to as they are.
    """

    heads: int
    window: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height, width, channels = x.shape
        window, area = self.window, self.window**2
        head_dim = channels // self.heads
        margins = ((0, 0), (0, -height % window), (0, -width % window), (0, 0))
        h = space_to_depth(jnp.pad(layer_norm(x, use_bias=False, name="norm"), margins), window)
        rows, columns = h.shape[1:3]
        qkv = _linear(3 * channels, self.dtype, "qkv")(h.reshape(batch, -1, area, channels))
        qkv = qkv.reshape(*qkv.shape[:3], 3, self.heads, head_dim)
        query, key, value = jnp.moveaxis(qkv, 3, 0)

        table_shape = ((2 * window - 1) ** 2, self.heads)
        table = self.param("position_bias", normal_init, table_shape)
        logits = jnp.einsum("bnqhd,bnkhd->bnhqk", query * head_dim**-0.5, key)
        logits = logits.astype(jnp.float32) + jnp.moveaxis(table[offsets(window)], -1, 0)
        is_image = jnp.pad(jnp.ones((1, height, width, 1), bool), margins)
        is_image = space_to_depth(is_image, window).reshape(-1, 1, 1, area)
        weights = nn.softmax(jnp.where(is_image, logits, -1e30)).astype(self.dtype)
        h = jnp.einsum("bnhqk,bnkhd->bnqhd", weights, value).reshape(batch, -1, area, channels)
        h = dense(channels, self.dtype, kernel_init=normal_init, name="out")(h)
        h = depth_to_space(h.reshape(batch, rows, columns, area * channels), window)
        return h[:, :height, :width]


class FrameAttention(nn.Module):
    """Temporal attention of one frame: its value."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = _linear(x.shape[-1], self.dtype, "value")(x)
        return _linear(x.shape[-1], self.dtype, "out")(h)


class OmniBlock(nn.Module, kw_only=True):
    """Positions by a depthwise convolution, attention, and a GEGLU (Shazeer 2020), each residual.

    Attributes:
      kind: of attention, 'global', 'window' (without the convolution) or 'frame'.
      window: side of its squares.
    """

    kind: str
    heads: int
    window: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        if self.kind != "window":
            x += conv(channels, 3, self.dtype, groups=channels, name="positions")(x)
        if self.kind == "global":
            x += GlobalAttention(self.heads, self.dtype, name="attention")(x)
        elif self.kind == "window":
            x += WindowAttention(self.heads, self.window, self.dtype, name="attention")(x)
        else:
            x += FrameAttention(self.dtype, name="attention")(x)
        hidden = int(4 * (2 / 3) * channels)
        h = _linear(2 * hidden, self.dtype, "mlp_hidden")(
            layer_norm(x, use_bias=True, name="mlp_norm")
        )
        h, gate = jnp.split(h, 2, axis=-1)
        x += _linear(channels, self.dtype, "mlp_out")(h * nn.gelu(gate, approximate=False))
        return shard_images(x)


class OmniTransformer(nn.Module, kw_only=True):
    """Blocks of `kinds`, and a norm, over `[B, h, w, C]`."""

    kinds: tuple[str, ...]
    heads: int
    window: int
    dtype: jnp.dtype
    remat: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i, kind in enumerate(self.kinds):
            block = OmniBlock(
                kind=kind, heads=self.heads, window=self.window, dtype=self.dtype, name=f"block{i}"
            )
            x = rematerialized(block, self.remat)(x)
        return layer_norm(x, use_bias=False, name="norm_out")


class OmniEncoder(nn.Module, kw_only=True):
    """Images `[B, H, W, 3]` in [-1, 1] → `[B, H/patch, W/patch, n_z]`, of any height and width.

    Attributes:
      n_z: latent channels; twice those for means and log-variances.
      patch: side of the square that becomes a token.
      width: of a token.
      depth: temporal layers, and spatial ones, of which the second half attends within windows.
      window: their side, in tokens.
      remat: of each block, one of `layers.REMAT_POLICIES`.
    """

    n_z: int
    patch: int = 8
    width: int = 512
    heads: int = 8
    depth: int = 4
    window: int = 8
    dtype: jnp.dtype = jnp.float32
    remat: str = "none"

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        kinds = ("global",) * (self.depth // 2) + ("window",) * (self.depth - self.depth // 2)
        h = layer_norm(
            space_to_depth(images.astype(self.dtype), self.patch), use_bias=True, name="norm_in"
        )
        h = dense(self.width, self.dtype, kernel_init=normal_init, name="patch")(h)
        h = shard_images(layer_norm(h, use_bias=True, name="norm_patch"))
        h = _transformer(self, kinds, "spatial")(h)
        h = _transformer(self, ("frame",) * self.depth, "temporal")(h)
        return dense(self.n_z, self.dtype, name="out")(h).astype(jnp.float32)


class OmniDecoder(nn.Module, kw_only=True):
    """Latents `[B, h, w, n_z]` → images `[B, patch h, patch w, 3]`, as `decoder.SDDecoder` called.

    Attributes: as `OmniEncoder`'s; all spatial layers are global.
    """

    last_layer: ClassVar[str] = "pixels"

    patch: int = 8
    width: int = 512
    heads: int = 8
    depth: int = 4
    window: int = 8
    dtype: jnp.dtype = jnp.float32
    remat: str = "none"

    @nn.compact
    def __call__(self, x: jax.Array, t: jax.Array, latents: jax.Array) -> jax.Array:
        del x, t
        h = dense(self.width, self.dtype, name="in")(latents.astype(self.dtype))
        h = _transformer(self, ("frame",) * self.depth, "temporal")(h)
        h = _transformer(self, ("global",) * self.depth, "spatial")(h)
        pixels = dense(3 * self.patch**2, self.dtype, kernel_init=normal_init, name="pixels")(h)
        return depth_to_space(pixels, self.patch).astype(jnp.float32)


def _transformer(
    network: OmniEncoder | OmniDecoder, kinds: tuple[str, ...], name: str
) -> Callable[[jax.Array], jax.Array]:
    """A transformer of the encoder's or decoder's own sizes."""
    return OmniTransformer(
        kinds=kinds,
        heads=network.heads,
        window=network.window,
        dtype=network.dtype,
        remat=network.remat,
        name=name,
    )


def _linear(features: int, dtype: jnp.dtype, name: str) -> nn.Dense:
    return dense(features, dtype, use_bias=False, kernel_init=normal_init, name=name)


def rotate(x: jax.Array) -> jax.Array:
    """Rotary positions (Su et al. 2021) of `[B, h, w, heads, head_dim]`.

    Neighbouring channels are the two parts of a number, of which even ones turn with the column,
    odd ones with the row, by whole numbers times `10000 ** (-i / (head_dim / 4))`.
    """
    height, width, head_dim = x.shape[1], x.shape[2], x.shape[-1]
    frequencies = 10000.0 ** (-np.arange(head_dim // 4) / (head_dim // 4))

    def turns(count: int) -> np.ndarray:
        return np.exp(1j * np.arange(count)[:, None] * frequencies)

    shape = (height, width, head_dim // 4)
    columns, rows = turns(width)[None, :], turns(height)[:, None]

    def joined(part: Callable[[np.ndarray], np.ndarray]) -> jax.Array:
        halves = [part(turn).astype(np.float32) for turn in (columns, rows)]
        halves = jnp.stack([jnp.broadcast_to(half, shape) for half in halves], axis=-1)
        return halves.reshape(height, width, 1, head_dim // 2)

    cosine, sine = joined(np.real), joined(np.imag)
    real, imaginary = x[..., 0::2], x[..., 1::2]
    turned = (real * cosine - imaginary * sine, real * sine + imaginary * cosine)
    return jnp.stack(turned, axis=-1).reshape(x.shape)


def offsets(window: int) -> np.ndarray:
    """`[window², window²]`: which of the `(2 window - 1)²` offsets lies between query and key."""
    row, column = np.divmod(np.arange(window**2), window)
    rows = row[:, None] - row + window - 1
    return (2 * window - 1) * rows + column[:, None] - column + window - 1
