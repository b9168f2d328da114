"""Our networks against what PyTorch's gave on the same weights, without PyTorch here."""

import numpy as np
import pytest

from tests import golden_params


@pytest.mark.parametrize("gain", golden_params.GAINS)
@pytest.mark.parametrize("name", sorted(golden_params.MODELS))
def test_outputs_and_gradients_equal_the_golden_ones(name, gain):
    """ADM and DDPM UNet, SD encoder and decoder, by every input and parameter."""
    module = golden_params.MODELS[name]
    inputs = golden_params.model_inputs(module)
    params = golden_params.random_params(module, inputs, gain)
    results = golden_params.run_flax(module, params, inputs)
    golden_params.assert_golden(f"{name}_gain{gain}", results)


def test_a_wrong_weight_is_seen():
    """The comparison can fail: one kernel of the encoder is 1 % too large."""
    module = golden_params.MODELS["sd_encoder"]
    inputs = golden_params.model_inputs(module)
    params = golden_params.random_params(module, inputs)
    params["conv_in"]["kernel"] = params["conv_in"]["kernel"] * np.float32(1.01)
    results = golden_params.run_flax(module, params, inputs)
    with pytest.raises(AssertionError, match="above 0.0001"):
        golden_params.assert_golden("sd_encoder_gain1.0", results)
