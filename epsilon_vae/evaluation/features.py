"""Features of images that Fréchet distances are computed of.

Only the distance over 'inception' is FID. The others are for where its weights are not to be had:
their distances fd_alexnet, fd_vgg16 and fd_efficientnet_lite0 compare with themselves alone.

Parameters are those of the same name from `epsilon_vae.pretrained.registry.load`. All is computed
in full float32, on every device.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from epsilon_vae.losses.perceptual import SCALE, SHIFT, alexnet_features, vgg16_features
from epsilon_vae.metrics import efficientnet_lite, inception
from epsilon_vae.pretrained.weights import Params

# What the three networks were trained on; Inception has its own size and rule of resizing.
IMAGE_SIZE = 224


def alexnet(params: Params, images: jax.Array) -> jax.Array:
    """AlexNet's fifth ReLU, its mean over 13 x 13 positions: `[B, 256]`.

    Args:
      params: LPIPS's.
      images: uint8 `[B, H, W, 3]`; resized to 224 x 224 (bilinear, antialiased, not rounded), and
        normalised by ImageNet's mean and deviation as LPIPS does it.
    """
    with jax.default_matmul_precision("highest"):
        return jnp.mean(alexnet_features(params, _normalise(images))[-1], axis=(1, 2))


def vgg16(params: Params, images: jax.Array) -> jax.Array:
    """VGG16's thirteenth ReLU, before the last pool, its mean over 14 x 14 positions: `[B, 512]`.

    Args:
      params: LPIPS's.
      images: as `alexnet`'s.
    """
    with jax.default_matmul_precision("highest"):
        return jnp.mean(vgg16_features(params, _normalise(images))[-1], axis=(1, 2))


def efficientnet_lite0(params: Params, images: jax.Array) -> jax.Array:
    """EfficientNet-Lite0's last ReLU6, its mean over 7 x 7 positions: `[B, 1280]`.

    Args:
      params: of the network.
      images: uint8 `[B, H, W, 3]`; resized as `alexnet`'s, and then (x - 127) / 128.
    """
    return efficientnet_lite.features(params, (_resize(images) - 127) / 128)


FEATURES: dict[str, Callable[[Params, jax.Array], jax.Array]] = {
    "inception": inception.features,
    "alexnet": alexnet,
    "vgg16": vgg16,
    "efficientnet_lite0": efficientnet_lite0,
}

_RESIZED = f"images resized to {IMAGE_SIZE} px, bilinear, antialiased, not rounded"
# What they are, in the words that results carry.
DESCRIPTIONS = {
    "inception": "over InceptionV3's 2048 pooled features, TensorFlow's weights of 2015-12-05; "
    "images resized to 299 px as TensorFlow 1 and torch-fidelity do",
    "alexnet": f"over the mean of AlexNet's fifth ReLU, 256 features, LPIPS's weights; {_RESIZED}",
    "vgg16": f"over the mean of VGG16's thirteenth ReLU, 512 features, LPIPS's weights; {_RESIZED}",
    "efficientnet_lite0": "over the mean of EfficientNet-Lite0's last ReLU6, 1280 features; "
    + _RESIZED,
}


def _resize(images: jax.Array) -> jax.Array:
    """uint8 → float32 in [0, 255], `[B, 224, 224, 3]`."""
    shape = (images.shape[0], IMAGE_SIZE, IMAGE_SIZE, 3)
    return jax.image.resize(images.astype(jnp.float32), shape, "bilinear")


def _normalise(images: jax.Array) -> jax.Array:
    return (_resize(images) / 127.5 - 1 - jnp.array(SHIFT)) / jnp.array(SCALE)
