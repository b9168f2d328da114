"""Our networks against what PyTorch's gave on the same weights, without PyTorch here."""

import numpy as np
import pytest

from tests import golden_params


@pytest.mark.parametrize("name", sorted(golden_params.MODELS))
def test_outputs_and_gradients_equal_the_golden_ones(name):
    module = golden_params.MODELS[name]
    inputs = golden_params.model_inputs(module)
    params = golden_params.random_params(module, inputs)
    golden_params.assert_golden(name, golden_params.run_flax(module, params, inputs))


def test_a_wrong_weight_is_seen():
    module = golden_params.MODELS["sd_encoder"]
    inputs = golden_params.model_inputs(module)
    params = golden_params.random_params(module, inputs)
    params["conv_in"]["kernel"] = params["conv_in"]["kernel"] * np.float32(1.01)
    with pytest.raises(AssertionError, match="above 0.0001"):
        golden_params.assert_golden("sd_encoder", golden_params.run_flax(module, params, inputs))
