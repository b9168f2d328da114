"""EfficientNet-Lite0 (Tan and Le 2019; Google's mobile variant without squeeze-and-excitation).

Parameters are `epsilon_vae.pretrained.efficientnet_lite.convert`'s, batch norms folded in.
"""

import jax
import jax.numpy as jnp
from jax import lax

from epsilon_vae.pretrained.weights import Params

# Blocks, and the stride of the first, of the stages; kernels and widths are the parameters'.
STAGES = ((1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2), (1, 1))


def features(params: Params, x: jax.Array) -> jax.Array:
    """The mean over positions of the last convolution's output, after its ReLU6: `[B, 1280]`.

    Args:
      params: of the network.
      x: `[B, 224, 224, 3]` in (pixel - 127) / 128, as it was trained.
    """
    x = _relu6(_conv(x, params["stem"], stride=2))
    strides = [stride if i == 0 else 1 for blocks, stride in STAGES for i in range(blocks)]
    for i, stride in enumerate(strides):
        y = x
        if f"block{i}.expand" in params:
            y = _relu6(_conv(y, params[f"block{i}.expand"]))
        y = _relu6(_conv(y, params[f"block{i}.depthwise"], stride, groups=y.shape[-1]))
        y = _conv(y, params[f"block{i}.project"])
        x = x + y if x.shape == y.shape else y
    return jnp.mean(_relu6(_conv(x, params["head"])), axis=(1, 2))


def _conv(x: jax.Array, layer: dict, stride: int = 1, groups: int = 1) -> jax.Array:
    y = lax.conv_general_dilated(
        x,
        layer["kernel"],
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
        precision=lax.Precision.HIGHEST,
    )
    return y + layer["bias"]


def _relu6(x: jax.Array) -> jax.Array:
    return jnp.clip(x, 0, 6)
