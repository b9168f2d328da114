"""Our SDEncoder and SDDecoder equal those of diffusers' AutoencoderKL: outputs and gradients."""

import pytest

from epsilon_vae.models.decoder import SDDecoder
from epsilon_vae.models.encoder import SDEncoder
from tests import golden_params
from tests.parity.requirements import require

require("diffusers")
from tests.parity import reference  # noqa: E402

SMALL = {"multipliers": (1, 2, 4), "channels": 32, "groups": 16, "last_attention": True}
MODULES = {
    "small encoder": golden_params.MODELS["sd_encoder"],
    "paper's encoder": SDEncoder(n_z=8, multipliers=(1, 2, 4, 4)),
    "vqgan's encoder": SDEncoder(n_z=8, blocks=1, **SMALL),
    "small decoder": golden_params.MODELS["sd_decoder"],
    "sd-vae's decoder": SDDecoder(multipliers=(1, 2, 4, 4)),
    "vqgan's decoder": SDDecoder(blocks=2, **SMALL),
}


@pytest.mark.parametrize("gain", golden_params.GAINS)
@pytest.mark.parametrize("name", MODULES)
def test_output_and_gradients_equal_diffusers(name, gain):
    """By the inputs and by every parameter; n_z is doubled, as SD-VAE's mean and log-variance."""
    module = MODULES[name]
    inputs = golden_params.model_inputs(module)
    params = golden_params.random_params(module, inputs, gain)
    expected = reference.run_torch(module, params, inputs)
    golden_params.assert_close(golden_params.run_flax(module, params, inputs), expected)
