"""Features of Fréchet distances against what PyTorch's networks gave, without PyTorch here."""

import numpy as np
import pytest

from epsilon_vae.evaluation.features import FEATURES
from tests import golden_features, golden_params

DIMENSIONS = {"inception": 2048, "alexnet": 256, "vgg16": 512, "efficientnet_lite0": 1280}


@pytest.mark.parametrize("name", FEATURES)
def test_features_equal_the_golden_ones(name):
    """torch-fidelity's, lpips' and efficientnet_lite_pytorch's, with the same weights."""
    expected, shapes = golden_features.load_golden(name)
    params = golden_features.parameters(name, shapes)
    actual = golden_features.run_ours(name, params, golden_features.images())
    golden_params.assert_close(actual, expected)
    features = actual["features"]
    assert features.shape == (2, DIMENSIONS[name]) and features.dtype == np.float32
    # What is zero, or hardly depends on the image, would prove little.
    assert np.std(features[0] - features[1]) > 200 * golden_params.TOLERANCE * np.std(features)
