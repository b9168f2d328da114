"""Large images in overlapping tiles: where they lie, the noise of each, and how they are blended.

A tile is decoded as a part of its image, so that neither seams nor other contrasts show. Its noise
is the cut of the noise that the whole image would be decoded from. And what the networks' norms
measure of a whole image, its mean and variance, is measured of *probes*, not of the tile: squares
of the tiles' size, put together from small patches of all over the image, which every tile is
computed beside. An image that is narrower than a tile is padded to one first. A tile of sky alone
would be stretched to the contrast of a whole photo. Network and device see tiles and probes of one
size, however large the image is.
"""

import itertools
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import threefry_2x32

# Tiles overlap by a part, and patches have that part as side: so tile sides are multiples of it.
PARTS = 4
PROBES = 4  # of PARTS x PARTS patches
# What is measured in docs/guides/use.md: over resolutions of training, the side of the tiles, and
# that of the largest images that are taken whole.
DEFAULT_TILE, DEFAULT_WHOLE = 2, 4
# What a device works on in one call: many tiles, since each call computes the probes again, but not
# many more pixels than this, since they are its memory; large tiles are as many as the probes.
MOST_TILES, MOST_PIXELS = 20, 2**20


def tiles_per_call(side: int) -> int:
    """How many tiles of this side a device works on in one call, beside the probes."""
    return min(MOST_TILES, max(PROBES, MOST_PIXELS // side**2 - PROBES))


class Tiling:
    """Overlapping tiles of one size that cover an image, and patches from all over it.

    Arrays are `[H / k, W / k, C]`, of pixels or of latents that stand for k x k of them.

    Args:
      height, width: of the image in pixels, at least `side`.
      side: of the tiles, a multiple of `PARTS * multiple`.
      multiple: pixels that tiles begin at multiples of; so are height and width.

    Attributes:
      size: of the image.
      corners: of the tiles, `[N, 2]`, in pixels.
    """

    def __init__(self, height: int, width: int, *, side: int, multiple: int):
        self.size, self.side, self._patch = (height, width), side, side // PARTS
        starts = [_starts(length, side, self._patch, multiple) for length in self.size]
        self.corners = np.array(list(itertools.product(*starts)))
        self._places = _places(height, width, self._patch, multiple)

    def cuts(self, x: np.ndarray) -> "_Cuts":
        """The tiles of an array, `[N, side / k, side / k, C]`, cut when they are asked for."""
        k = self.size[0] // len(x)
        make = lambda part: _cut(x, self.corners[part] // k, self.side // k)  # noqa: E731
        return _Cuts(make, len(self.corners))

    def probes(self, x: np.ndarray) -> np.ndarray:
        """Probes `[PROBES, side / k, side / k, C]` of an array."""
        k = self.size[0] // len(x)
        return _assembled(_cut(x, self._places // k, self._patch // k))

    def pixels(self) -> tuple["_Cuts", np.ndarray]:
        """Which pixels of the image tiles and probes have, row by row, `[…, side, side]`."""
        width = self.size[1]
        tiles = _Cuts(lambda part: _pixels(self.corners[part], self.side, width), len(self.corners))
        patches = _pixels(self._places, self._patch, width)
        return tiles, _assembled(patches[..., None])[..., 0]

    def blend(self, parts: Iterable[np.ndarray]) -> np.ndarray:
        """An array from groups `[n, side / k, side / k, C]` of its tiles, in their order.

        Weights fall linearly to both sides of a tile over the overlap, and are 1 in all.
        """
        blended, at = np.empty(0), 0
        for part in parts:
            k = self.side // part.shape[1]
            if not at:
                blended = np.zeros((*(n // k for n in self.size), part.shape[-1]), np.float32)
                ramps = [self._ramps(axis, k) for axis in (0, 1)]
            for tile, corner in zip(part, self.corners[at:], strict=False):
                y, x = corner // k
                weights = np.outer(ramps[0][corner[0]], ramps[1][corner[1]])[..., None]
                blended[y : y + len(tile), x : x + len(tile)] += weights * tile
            at += len(part)
        return blended

    def _ramps(self, axis: int, k: int) -> dict[int, np.ndarray]:
        """Weights along an axis, by where a tile begins."""
        side, starts = self.side // k, np.unique(self.corners[:, axis])
        edge = np.minimum(np.arange(side), np.arange(side)[::-1]) + 0.5
        ramp = np.minimum(edge * k / self._patch, 1)
        total = np.zeros(self.size[axis] // k)
        for start in starts // k:
            total[start : start + side] += ramp
        return {start: ramp / total[start // k :][:side] for start in starts}


class _Cuts:
    """An array of some length that is made part by part."""

    def __init__(self, make: Callable[[slice], np.ndarray], length: int):
        self._make, self._length = make, length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, part: slice) -> np.ndarray:
        return self._make(part)


def noise_at(key: jax.Array, pixels: jax.Array) -> jax.Array:
    """`jax.random.normal(key, (H, W, 3))` at some of its pixels, without the rest.

    It repeats after 1.4 gigapixels, and is that of JAX's defaults: float32, and
    `jax_threefry_partitionable`.

    Args:
      key: of JAX's default kind, 'threefry2x32'.
      pixels: uint32 `[…]`, numbers of pixels, row by row.

    Returns:
      float32 `[…, 3]`.
    """
    counts = 3 * pixels.astype(jnp.uint32)[..., None] + jnp.arange(3, dtype=jnp.uint32)
    words = jnp.concatenate([jnp.zeros_like(counts.ravel()), counts.ravel()])
    first, second = jnp.split(threefry_2x32(jax.random.key_data(key), words), 2)
    # As jax.random.uniform and normal make numbers of bits.
    bits = ((first ^ second) >> 9) | np.float32(1).view(np.uint32)
    lowest = np.nextafter(np.float32(-1), np.float32(0))
    uniform = jax.lax.bitcast_convert_type(bits, jnp.float32) - 1
    uniform = jnp.maximum(lowest, uniform * (1 - lowest) + lowest)
    return (np.float32(np.sqrt(2)) * jax.lax.erf_inv(uniform)).reshape(counts.shape)


def _starts(length: int, side: int, overlap: int, multiple: int) -> list[int]:
    """Where tiles begin that lie evenly and overlap by `overlap` or more."""
    count = max(1, -(-(length - overlap) // (side - overlap)))
    gap = (length - side) // multiple / max(1, count - 1)
    return [round(i * gap) * multiple for i in range(count)]


def _places(height: int, width: int, side: int, multiple: int) -> np.ndarray:
    """Corners of the patches: the R2 sequence, which spreads any number of them evenly."""
    share = (0.5 + np.outer(np.arange(PROBES * PARTS**2), [0.7548776662, 0.5698402910])) % 1
    free = (np.array([height, width]) - side) // multiple + 1
    return (share * free).astype(int) * multiple


def _cut(x: np.ndarray, corners: np.ndarray, side: int) -> np.ndarray:
    return np.stack([x[row : row + side, column : column + side] for row, column in corners])


def _pixels(corners: np.ndarray, side: int, width: int) -> np.ndarray:
    rows, columns = (corners[:, axis, None] + np.arange(side) for axis in (0, 1))
    return (rows[:, :, None] * width + columns[:, None]).astype(np.uint32)


def _assembled(patches: np.ndarray) -> np.ndarray:
    """Probes of patches `[PROBES * PARTS * PARTS, side, side, C]`."""
    side, channels = patches.shape[1], patches.shape[-1]
    grid = patches.reshape(PROBES, PARTS, PARTS, side, side, channels)
    return grid.swapaxes(2, 3).reshape(PROBES, PARTS * side, PARTS * side, channels)
