"""Our DiT equals diffusers' DiTTransformer2DModel: outputs and gradients."""

import jax.numpy as jnp
import numpy as np
import pytest

from epsilon_vae.models.dit import SINUSOID_DIM, DiT
from epsilon_vae.models.layers import TimeEmbedding
from tests import golden_params
from tests.parity.requirements import require

require("diffusers")
import torch  # noqa: E402

from tests.parity import reference  # noqa: E402


@pytest.mark.parametrize("gain", golden_params.GAINS)
def test_decoder_equals_diffusers(gain):
    """By x, t, latents and every parameter."""
    module = golden_params.MODELS["dit_decoder"]
    inputs = golden_params.model_inputs(module)
    params = golden_params.random_params(module, inputs, gain)
    expected = reference.run_torch(module, params, inputs)
    golden_params.assert_close(golden_params.run_flax(module, params, inputs), expected)


def test_transformer_equals_diffusers_on_times_and_labels():
    """Of the class-conditional network: patch 2, 4 channels to 8; by x, the sum and all else."""
    module = DiT(depth=2, width=48, heads=3, patch=2, out_channels=8)
    torch.manual_seed(0)
    embedding = reference.build_dit(module, 4).transformer_blocks[0].norm1.emb
    embedding.time_proj.downscale_freq_shift = 0
    steps, labels = torch.tensor([250, 812]), torch.tensor([3, 10])  # 10 is the dropped label
    with torch.no_grad():
        conditioning = embedding(steps, labels, hidden_dtype=torch.float32).numpy()

    state = {name: value.numpy() for name, value in embedding.state_dict().items()}
    linear = [f"timestep_embedder.linear_{i}" for i in (1, 2)]
    layers = [
        {"kernel": state[f"{name}.weight"].T, "bias": state[f"{name}.bias"]} for name in linear
    ]
    time = TimeEmbedding(SINUSOID_DIM, module.width, jnp.float32)
    params = {"hidden": layers[0], "out": layers[1]}
    ours = time.apply({"params": params}, jnp.array([0.25, 0.812]))
    ours += state["class_embedder.embedding_table.weight"][labels.numpy()]
    np.testing.assert_allclose(ours, conditioning, atol=1e-5)

    x = np.random.RandomState(1).standard_normal((2, 32, 32, 4)).astype(np.float32)
    inputs = {"x": x, "conditioning": conditioning}
    params = golden_params.random_params(module, inputs)
    expected = reference.run_torch(module, params, inputs)
    golden_params.assert_close(golden_params.run_flax(module, params, inputs), expected)
