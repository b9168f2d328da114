"""The InceptionV3 (Szegedy et al. 2015) whose features FID (Heusel et al. 2017) is defined on.

The graph of TensorFlow's inception-2015-12-05, as torch-fidelity and pytorch-fid have it. It is not
torchvision's: average pools leave the padding out of the mean, the last block pools by maxima, and
there are 1008 classes. Images are resized by TensorFlow 1's bilinear rule, as the first FID did and
torch-fidelity does; pytorch-fid samples at half-pixel centres instead, for slightly other numbers.

Parameters are `epsilon_vae.pretrained.inception.convert`'s, batch norms folded in.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from epsilon_vae.pretrained.weights import Params

IMAGE_SIZE = 299
NUM_FEATURES = 2048


def features(params: Params, images: jax.Array) -> jax.Array:
    """The features of FID and KID: the mean over positions of the last block, `[B, 2048]`.

    Args:
      params: of the network.
      images: uint8 `[B, H, W, 3]` of any size; they are resized to 299 x 299, neither antialiased
        nor rounded, and become (x - 128) / 128.
    """
    x = (resize_like_tensorflow1(images.astype(jnp.float32), IMAGE_SIZE) - 128) / 128
    x = _conv(x, params["Conv2d_1a_3x3"], stride=2)
    x = _conv(x, params["Conv2d_2a_3x3"], padding="VALID")
    x = _conv(x, params["Conv2d_2b_3x3"])
    x = _max_pool(x)
    x = _conv(x, params["Conv2d_3b_1x1"])
    x = _conv(x, params["Conv2d_4a_3x3"], padding="VALID")
    x = _max_pool(x)
    for name in ("5b", "5c", "5d"):
        x = _Block(params, f"Mixed_{name}", x).with_5x5()
    x = _Block(params, "Mixed_6a", x).to_17x17()
    for name in ("6b", "6c", "6d", "6e"):
        x = _Block(params, f"Mixed_{name}", x).with_7x7()
    x = _Block(params, "Mixed_7a", x).to_8x8()
    x = _Block(params, "Mixed_7b", x).with_forks(_average_pool)
    x = _Block(params, "Mixed_7c", x).with_forks(lambda x: _max_pool(x, stride=1, padding="SAME"))
    return jnp.mean(x, axis=(1, 2))


def unbiased_logits(params: Params, pooled: jax.Array) -> jax.Array:
    """Logits of the Inception Score, `[B, 1008]`: as its first code had it, without their bias.

    torch-fidelity calls them 'logits_unbiased'.

    Args:
      params: of the network.
      pooled: `features`.
    """
    return jnp.matmul(pooled, params["fc"]["kernel"], precision=lax.Precision.HIGHEST)


def resize_like_tensorflow1(images: jax.Array, size: int) -> jax.Array:
    """`[B, H, W, C]` → `[B, size, size, C]` as TensorFlow 1's resize_bilinear did it.

    Output pixel i is read at i * H / size, whose integer part and next pixel it mixes: corners are
    not aligned, centres neither, and where it shrinks, pixels are skipped.
    """
    for axis in (1, 2):
        length = images.shape[axis]
        places = np.arange(size, dtype=np.float32) * np.float32(length / size)
        low = places.astype(np.int32)
        high = np.minimum(low + 1, length - 1)
        share = (places - low).reshape((-1, *(1,) * (3 - axis)))
        below, above = jnp.take(images, low, axis), jnp.take(images, high, axis)
        images = below + (above - below) * share
    return images


def _conv(x: jax.Array, layer: dict, stride: int = 1, padding: str = "SAME") -> jax.Array:
    """Convolution and ReLU, in full float32: FID's moments show what TF32 and bfloat16 lose."""
    y = lax.conv_general_dilated(
        x,
        layer["kernel"],
        (stride, stride),
        "VALID" if stride == 2 else padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=lax.Precision.HIGHEST,
    )
    return jax.nn.relu(y + layer["bias"])


def _max_pool(x: jax.Array, stride: int = 2, padding: str = "VALID") -> jax.Array:
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, stride, stride, 1), padding)


def _average_pool(x: jax.Array) -> jax.Array:
    """Means of the 3 x 3 neighbours that there are: fewer at the edge."""

    def window_sum(x: jax.Array) -> jax.Array:
        return lax.reduce_window(x, 0.0, lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")

    return window_sum(x) / window_sum(jnp.ones((1, *x.shape[1:3], 1), x.dtype))


class _Block:
    """A block's input and its layers; each kind of block is a method, named by what it does.

    Args:
      params: of the network.
      name: of the block.
      x: its input, `[B, H, W, C]`.
    """

    def __init__(self, params: Params, name: str, x: jax.Array):
        self._params, self._name, self._x = params, name, x

    def with_5x5(self) -> jax.Array:
        """The blocks of 35 x 35 positions."""
        return _concatenate(
            self._branch("branch1x1"),
            self._branch("branch5x5_1", "branch5x5_2"),
            self._branch("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"),
            self._layer("branch_pool", _average_pool(self._x)),
        )

    def to_17x17(self) -> jax.Array:
        """Halves 35 x 35 positions."""
        return _concatenate(
            self._branch("branch3x3", stride=2),
            self._branch("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3", stride=2),
            _max_pool(self._x),
        )

    def with_7x7(self) -> jax.Array:
        """The blocks of 17 x 17 positions: 1 x 7 and 7 x 1 convolutions in place of 7 x 7."""
        return _concatenate(
            self._branch("branch1x1"),
            self._branch(*(f"branch7x7_{i}" for i in (1, 2, 3))),
            self._branch(*(f"branch7x7dbl_{i}" for i in (1, 2, 3, 4, 5))),
            self._layer("branch_pool", _average_pool(self._x)),
        )

    def to_8x8(self) -> jax.Array:
        """Halves 17 x 17 positions."""
        return _concatenate(
            self._branch("branch3x3_1", "branch3x3_2", stride=2),
            self._branch(*(f"branch7x7x3_{i}" for i in (1, 2, 3, 4)), stride=2),
            _max_pool(self._x),
        )

    def with_forks(self, pool) -> jax.Array:
        """The blocks of 8 x 8 positions: a 1 x 3 beside a 3 x 1 convolution, twice."""
        single = self._branch("branch3x3_1")
        double = self._branch("branch3x3dbl_1", "branch3x3dbl_2")
        return _concatenate(
            self._branch("branch1x1"),
            self._layer("branch3x3_2a", single),
            self._layer("branch3x3_2b", single),
            self._layer("branch3x3dbl_3a", double),
            self._layer("branch3x3dbl_3b", double),
            self._layer("branch_pool", pool(self._x)),
        )

    def _branch(self, *names: str, stride: int = 1) -> jax.Array:
        """The layers one after the other from the block's input; `stride` is the last one's."""
        x = self._x
        for name in names[:-1]:
            x = self._layer(name, x)
        return self._layer(names[-1], x, stride)

    def _layer(self, name: str, x: jax.Array, stride: int = 1) -> jax.Array:
        return _conv(x, self._params[f"{self._name}.{name}"], stride)


def _concatenate(*branches: jax.Array) -> jax.Array:
    return jnp.concatenate(branches, axis=-1)
