"""Parameters (or gradients) of our Flax trees in the names and layouts of PyTorch packages.

The golden tests, which run without PyTorch, use it too.
"""

import jax
import numpy as np
from flax import linen as nn
from flax import traverse_util

from epsilon_vae.models.decoder import SDDecoder
from epsilon_vae.models.dit import ClassDiT, DiT, DiTDecoder
from epsilon_vae.models.encoder import SDEncoder
from epsilon_vae.pretrained import dit_layouts
from epsilon_vae.pretrained.layouts import DIFFUSERS, torch_leaf

NETWORKS = {
    SDEncoder: "encoder",
    SDDecoder: "decoder",
    DiT: "dit",
    DiTDecoder: "dit",
    ClassDiT: "dit",
}
LPIPS_FEATURES = {
    "vgg16": (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
    "alexnet": (0, 3, 6, 8, 10),
}


def to_diffusers(module: nn.Module, params: dict) -> dict[str, np.ndarray]:
    """The state dict of diffusers' network for `module`'s parameters.

    That is `UNet2DModel`, `AutoencoderKL`'s encoder or decoder, or `DiTTransformer2DModel`.
    Gradients map like parameters.
    """
    flat = traverse_util.flatten_dict(jax.tree.map(np.asarray, params), sep="/")
    network = NETWORKS.get(type(module), "unet")
    if network == "dit":
        patch = module.patch if isinstance(module, DiT) else module.dit.patch
        return dit_layouts.state_dict(DIFFUSERS, flat, patch)
    return DIFFUSERS.network_state_dict(network, flat)


def to_lpips(net: str, params: dict) -> dict[str, np.ndarray]:
    """The state dict of `lpips.LPIPS` for our LPIPS parameters, without its constants.

    lpips names a convolution by its slice (one for each of the five taps) and by its index in
    torchvision's `features`; each linear layer has two names there.
    """
    stages = np.repeat(np.arange(5), (2, 2, 3, 3, 3)) if net == "vgg16" else range(5)
    state = {}
    for i, (stage, index) in enumerate(zip(stages, LPIPS_FEATURES[net], strict=True)):
        for leaf, value in params[f"conv{i}"].items():
            leaf, value = torch_leaf(leaf, value)
            state[f"net.slice{stage + 1}.{index}.{leaf}"] = value
    for i in range(5):
        kernel = params[f"linear{i}"]["kernel"].reshape(1, -1, 1, 1)
        state[f"lin{i}.model.1.weight"] = state[f"lins.{i}.model.1.weight"] = kernel
    return state
