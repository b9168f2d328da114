"""Weights of the InceptionV3 that FID is defined by (Szegedy et al. 2015; Heusel et al. 2017).

TensorFlow's inception-2015-12-05, as converted to PyTorch by pytorch-fid (Seitzer). No package has
them. torch-fidelity's weights-inception-2015-12-05-6726825d.pth is the same file, byte for byte.

The file's name gives the first eight digits of its SHA-256. The whole, and the size, are what
projects that fetched it pin, GenForce under pytorch-fid's name and others under torch-fidelity's;
neither was computed from the file in this project.
"""

import io
from collections.abc import Mapping

import numpy as np

from epsilon_vae.pretrained.batch_norm import fold_batch_norm
from epsilon_vae.pretrained.torch_file import read_torch_file
from epsilon_vae.pretrained.weights import Params, Weights

BATCH_NORM_EPS = 1e-3


def from_state_dict(state: Mapping[str, np.ndarray]) -> Params:
    """Parameters of `metrics.inception`.

    Args:
      state: as the file has it.

    Returns:
      94 convolutions under the file's names, as 'Mixed_5b.branch1x1': 'kernel'
      `[height, width, in, out]` and 'bias' `[out]`, into which the batch norms are folded; and
      'fc': 'kernel' `[2048, 1008]`, whose bias the Inception Score leaves out.

    Raises:
      ValueError: not the state dict of such a network.
    """
    names = [name.removesuffix(".conv.weight") for name in state if name.endswith(".conv.weight")]
    if "fc.weight" not in state:
        raise ValueError("it has no 'fc.weight'")
    params = {
        name: fold_batch_norm(state, f"{name}.conv", norm=f"{name}.bn", eps=BATCH_NORM_EPS)
        for name in names
    }
    params["fc"] = {"kernel": np.ascontiguousarray(state["fc.weight"].T)}
    return params


def convert(data: bytes) -> Params:
    """The file's bytes as parameters: see `from_state_dict`."""
    return from_state_dict(read_torch_file(io.BytesIO(data)))


WEIGHTS = Weights(
    name="inception",
    purpose="FID and the Inception Score",
    licence="Apache-2.0",
    sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    size=95_628_359,
    convert=convert,
    url=(
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
        "pt_inception-2015-12-05-6726825d.pth"
    ),
)
