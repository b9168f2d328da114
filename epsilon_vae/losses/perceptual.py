"""LPIPS (Zhang et al. 2018): the perceptual distance of the objective and of the evaluation.

Weights are `epsilon_vae.pretrained.registry.load`'s; they are an argument, never constants of the
compiled program. Images are `[B, H, W, 3]` in [-1, 1]; distances `[B]`.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from epsilon_vae.parallel.sharding import shard_images

SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)


def _conv(x: jax.Array, layer: dict, stride: int = 1, padding: int = 1) -> jax.Array:
    y = lax.conv_general_dilated(
        x,
        layer["kernel"].astype(x.dtype),
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return shard_images(jax.nn.relu(y + layer["bias"].astype(x.dtype)))


def _max_pool(x: jax.Array, window: int) -> jax.Array:
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, window, window, 1), (1, 2, 2, 1), "VALID")


def vgg16_features(params: dict, x: jax.Array) -> list[jax.Array]:
    """Activations after the last ReLU of VGG16's five stages (64, 128, 256, 512, 512 channels)."""
    features, layer = [], 0
    for stage, convolutions in enumerate((2, 2, 3, 3, 3)):
        if stage > 0:
            x = _max_pool(x, 2)
        for _ in range(convolutions):
            x = _conv(x, params[f"conv{layer}"])
            layer += 1
        features.append(x)
    return features


def alexnet_features(params: dict, x: jax.Array) -> list[jax.Array]:
    """Activations after AlexNet's five ReLUs (64, 192, 384, 256, 256 channels)."""
    features = [_conv(x, params["conv0"], stride=4, padding=2)]
    features.append(_conv(_max_pool(features[-1], 3), params["conv1"], padding=2))
    features.append(_conv(_max_pool(features[-1], 3), params["conv2"]))
    features.append(_conv(features[-1], params["conv3"]))
    features.append(_conv(features[-1], params["conv4"]))
    return features


NETS = {"vgg16": vgg16_features, "alexnet": alexnet_features}


@dataclasses.dataclass(frozen=True)
class LPIPS:
    """The distance; `params` go with `net`.

    Attributes:
      net: 'vgg16' (the paper's objective) or 'alexnet' (30 times cheaper).
      dtype: of the convolutions; distances are always float32.
    """

    net: str = "vgg16"
    dtype: jnp.dtype = jnp.float32

    def __call__(self, params: dict, images: jax.Array, others: jax.Array) -> jax.Array:
        """LPIPS of each pair: mean over positions of weighted squared feature differences."""
        distance = jnp.zeros(images.shape[0])
        pairs = zip(self._features(params, images), self._features(params, others), strict=True)
        for i, (a, b) in enumerate(pairs):
            difference = (_unit(a) - _unit(b)) ** 2
            weighted = difference @ params[f"linear{i}"]["kernel"]
            distance += jnp.mean(weighted, axis=(1, 2))
        return distance

    def _features(self, params: dict, images: jax.Array) -> list[jax.Array]:
        normalised = (images - jnp.array(SHIFT)) / jnp.array(SCALE)
        return NETS[self.net](params, normalised.astype(self.dtype))


def _unit(x: jax.Array) -> jax.Array:
    """Channels scaled to unit length, in float32, as lpips 0.1 does it (eps outside of the root).

    The `where` gives all-zero positions, which ReLU makes, a gradient of 0 instead of NaN.
    """
    x = x.astype(jnp.float32)
    squares = jnp.sum(x**2, axis=-1, keepdims=True)
    positive = squares > 0
    norm = jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1.0)), 0.0)
    return x / (norm + 1e-10)
