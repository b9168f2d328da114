"""Our LPIPS equals the PyTorch package lpips: distances, gradients and linear weights."""

import numpy as np
import pytest

from epsilon_vae.pretrained import registry
from tests import golden_params
from tests.parity.requirements import require
from tests.parity.weights import to_lpips

require("torchvision", "lpips")
from tests.parity import reference_lpips  # noqa: E402


@pytest.mark.parametrize("net", golden_params.LPIPS_NETS)
def test_distance_and_gradient_equal_lpips(net):
    """With our weights on both sides."""
    params = registry.load(net)
    expected = reference_lpips.run_torch_lpips(net, params)
    golden_params.assert_close(golden_params.run_lpips(net, params), expected)


@pytest.mark.parametrize("net", golden_params.LPIPS_NETS)
def test_linear_weights_are_those_that_lpips_ships(net):
    """The weights that were learnt from human judgements, which the lpips package carries."""
    shipped = reference_lpips.build_lpips(net).state_dict()
    ours = to_lpips(net, registry.load(net))
    linear = [name for name in ours if name.startswith("lin")]
    assert len(linear) == 10
    for name in linear:
        np.testing.assert_allclose(ours[name], shipped[name].numpy(), rtol=0, atol=1e-6)
