"""The PyTorch side of LPIPS; `reference` without it needs neither lpips nor torchvision."""

import lpips
import numpy as np
import torch

from tests import golden_params
from tests.parity.weights import to_lpips

LPIPS_NAMES = {"vgg16": "vgg", "alexnet": "alex"}


def run_torch_lpips(net: str, params: dict) -> dict[str, np.ndarray]:
    """What lpips computes with our weights, in float64: see `golden_params.run_lpips`."""
    network = build_lpips(net)
    state = {name: torch.tensor(value) for name, value in to_lpips(net, params).items()}
    missing = network.load_state_dict(state, strict=False)
    assert missing.missing_keys == ["scaling_layer.shift", "scaling_layer.scale"], missing
    assert not missing.unexpected_keys, missing
    network.double()
    images, others = (torch.tensor(batch).double() for batch in golden_params.image_pair())
    images.requires_grad_()
    output = network(images.permute(0, 3, 1, 2), others.permute(0, 3, 1, 2)).reshape(-1)
    output.sum().backward()
    return {"output": output.detach().numpy(), "images": images.grad.numpy()}


def build_lpips(net: str) -> lpips.LPIPS:
    """lpips' network: the linear weights that the package ships, random convolutions (offline)."""
    return lpips.LPIPS(net=LPIPS_NAMES[net], pnet_rand=True, verbose=False)
