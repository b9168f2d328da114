"""Our SDEncoder equals the encoder of diffusers' AutoencoderKL: outputs and gradients."""

import pytest

from epsilon_vae.models.encoder import SDEncoder
from tests import golden_params
from tests.parity.requirements import require

require("diffusers")
from tests.parity import reference  # noqa: E402


@pytest.mark.parametrize("gain", golden_params.GAINS)
@pytest.mark.parametrize(
    "module",
    [golden_params.MODELS["sd_encoder"], SDEncoder(n_z=8, multipliers=(1, 2, 4, 4))],
    ids=["small", "paper"],
)
def test_output_and_gradients_equal_diffusers(module, gain):
    """By the images and by every parameter; n_z is doubled, as SD-VAE's mean and log-variance."""
    inputs = golden_params.model_inputs(module)
    params = golden_params.random_params(module, inputs, gain)
    expected = reference.run_torch(module, params, inputs)
    golden_params.assert_close(golden_params.run_flax(module, params, inputs), expected)
