"""The PyTorch side of frozen networks: their features, and the shapes of their state dicts."""

import pathlib
from unittest import mock

import numpy as np
import torch
from efficientnet_lite_pytorch import EfficientNet
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from epsilon_vae.evaluation.features import IMAGE_SIZE
from epsilon_vae.pretrained import registry
from tests.parity.reference_lpips import build_lpips
from tests.parity.weights import to_lpips


def inception_shapes() -> dict[str, tuple[int, ...]]:
    """Of torch-fidelity's network, which cannot be built without a file of weights."""
    with (
        mock.patch.object(torch, "load"),
        mock.patch.object(FeatureExtractorInceptionV3, "load_state_dict"),
    ):
        return _shapes(FeatureExtractorInceptionV3("", ["2048"], "a file"))


def efficientnet_shapes() -> dict[str, tuple[int, ...]]:
    """Of the network of efficientnet_lite_pytorch."""
    return _shapes(EfficientNet.from_name("efficientnet-lite0"))


def run_inception(file: pathlib.Path, images: np.ndarray) -> dict[str, np.ndarray]:
    """What torch-fidelity computes for uint8 images with the weights of a .pth file."""
    network = FeatureExtractorInceptionV3("", ["2048", "logits_unbiased"], str(file))
    with torch.no_grad():
        features, logits = network(torch.tensor(images).permute(0, 3, 1, 2))
    return {"features": features.numpy(), "logits": logits.numpy()}


def run_efficientnet(state: dict[str, torch.Tensor], images: np.ndarray) -> dict[str, np.ndarray]:
    """What efficientnet_lite_pytorch computes for uint8 images."""
    network = EfficientNet.from_name("efficientnet-lite0").eval()
    network.load_state_dict(state)
    with torch.no_grad():
        maps = network.extract_features((_resize(images) - 127) / 128)
    return {"features": maps.mean((2, 3)).numpy()}


def run_lpips(net: str, images: np.ndarray) -> dict[str, np.ndarray]:
    """The mean of the last feature map that lpips takes."""
    network = build_lpips(net)
    state = to_lpips(net, registry.load(net))
    network.load_state_dict({k: torch.tensor(v) for k, v in state.items()}, strict=False)
    with torch.no_grad():
        maps = network.net(network.scaling_layer(_resize(images) / 127.5 - 1))[-1]
    return {"features": maps.mean((2, 3)).numpy()}


def _resize(images: np.ndarray) -> torch.Tensor:
    return torch.nn.functional.interpolate(
        torch.tensor(images).permute(0, 3, 1, 2).float(),
        (IMAGE_SIZE, IMAGE_SIZE),
        mode="bilinear",
        antialias=True,
    )


def _shapes(network: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    state = network.state_dict()
    return {k: tuple(v.shape) for k, v in state.items() if not k.endswith("num_batches_tracked")}
