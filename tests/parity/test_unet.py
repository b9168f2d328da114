"""Our UNet equals diffusers' UNet2DModel: outputs and gradients, in the ADM and the DDPM form."""

import jax
import numpy as np
import pytest

from epsilon_vae.models.unet import UNet
from tests import golden_params
from tests.parity.requirements import require

require("diffusers")
from tests.parity import reference  # noqa: E402


@pytest.mark.parametrize("gain", golden_params.GAINS)
@pytest.mark.parametrize("name", ["unet_adm", "unet_ddpm"])
def test_output_and_gradients_equal_diffusers(name, gain):
    """By x, t, latents and every parameter."""
    module = golden_params.MODELS[name]
    inputs = golden_params.model_inputs(module)
    params = golden_params.random_params(module, inputs, gain)
    expected = reference.run_torch(module, params, inputs)
    golden_params.assert_close(golden_params.run_flax(module, params, inputs), expected)


def test_output_of_decoder_b_equals_diffusers():
    """The paper's smallest decoder at its real width, 20,627,395 parameters."""
    module = UNet(channels=64, blocks=2, attention_factors=(8,))
    inputs = golden_params.model_inputs(module)
    params = golden_params.random_params(module, inputs)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 20_627_395
    expected = reference.predict(module, params, inputs)
    with jax.default_matmul_precision("highest"):
        actual = jax.jit(module.apply)({"params": params}, **inputs)
    golden_params.assert_close({"output": np.asarray(actual)}, {"output": expected})
