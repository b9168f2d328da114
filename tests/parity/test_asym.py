"""Our SDDecoder with `takes_mask` equals the decoder of diffusers' AsymmetricAutoencoderKL."""

import jax
import numpy as np
import pytest
from flax import traverse_util

from configs import common
from epsilon_vae.models.decoder import SDDecoder
from epsilon_vae.pretrained.layouts import DIFFUSERS
from epsilon_vae.training.build import build_objective
from epsilon_vae.training.flops import parameter_counts
from tests import golden_params
from tests.helpers import state_shapes
from tests.parity.requirements import require
from tests.parity.weights import to_diffusers

require("diffusers")
import torch  # noqa: E402
from diffusers import AsymmetricAutoencoderKL  # noqa: E402

MODULE = SDDecoder(multipliers=(1, 2, 4, 4), channels=32, blocks=2, groups=16, takes_mask=True)


def build(channels: int, blocks: int, groups: int = 32) -> AsymmetricAutoencoderKL:
    """With SD-VAE's encoder, and a decoder of `blocks` residual blocks a level."""
    return AsymmetricAutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        down_block_out_channels=(128, 256, 512, 512),
        layers_per_down_block=2,
        up_block_types=("UpDecoderBlock2D",) * 4,
        up_block_out_channels=tuple(channels * multiplier for multiplier in (1, 2, 4, 4)),
        layers_per_up_block=blocks - 1,
        norm_num_groups=groups,
    )


def run_torch(params: dict, inputs: dict) -> dict[str, np.ndarray]:
    """Output, and gradients of its projection by inputs and parameters, where there are any."""
    network = build(MODULE.channels, MODULE.blocks, MODULE.groups).decoder
    state = to_diffusers(MODULE, params)
    network.load_state_dict({k: torch.tensor(v) for k, v in state.items()}, strict=True)
    tensors = {k: torch.tensor(v, requires_grad=True) for k, v in inputs.items() if v is not None}
    latents, *known = (tensor.permute(0, 3, 1, 2) for tensor in tensors.values())
    output = network(latents, *known).permute(0, 2, 3, 1)
    output.backward(torch.tensor(golden_params.projection(output.shape)))
    leaves = tensors | dict(network.named_parameters())
    results = {k: leaf.grad.numpy() for k, leaf in leaves.items() if leaf.grad is not None}
    return results | {"output": output.detach().numpy()}


@pytest.mark.parametrize("is_masked", [True, False], ids=["masked", "plain"])
def test_output_and_gradients_equal_diffusers(is_masked):
    """By latents, image, mask and every parameter; those of the known part are idle without one."""
    random, size = np.random.RandomState(4), golden_params.IMAGE_SIZE
    inputs = golden_params.model_inputs(MODULE, n_z=4) | {"image": None, "mask": None}
    if is_masked:
        shape = (golden_params.BATCH, size, size, 1)
        inputs["mask"] = random.randint(0, 2, shape).astype(np.float32)
        inputs["image"] = random.uniform(-1, 1, (*shape[:3], 3)).astype(np.float32)
        inputs = {name: inputs[name] for name in ("x", "t", "latents", "image", "mask")}
    for gain in golden_params.GAINS:
        params = golden_params.random_params(MODULE, inputs, gain)
        expected = run_torch(params, inputs)
        actual = golden_params.run_flax(MODULE, params, inputs)
        idle = {name: actual.pop(name) for name in set(actual) - set(expected)}
        assert len(idle) == (0 if is_masked else 10)
        assert not any(np.any(gradient) for gradient in idle.values())
        golden_params.assert_close(actual, expected)


@pytest.mark.parametrize(("size", "channels", "blocks"), [("l", 192, 4), ("xl", 256, 6)])
def test_public_sizes_have_as_many_parameters(size, channels, blocks):
    """Those of cross-attention/asymmetric-autoencoder-kl-x-1-5 and -x-2."""
    with torch.device("meta"):
        network = build(channels, blocks)
    counts = parameter_counts(build_objective(common.asym_vae(size)))
    total = sum(parameter.numel() for parameter in network.parameters())
    assert counts["encoder"] + counts["decoder"] == total


def test_weights_of_a_public_size_fill_ours():
    """All of `x-1-5`'s names and shapes, as `epsilon_vae.convert` reads them."""
    shapes = state_shapes(common.asym_vae("l")).params
    zeros = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes)
    ours = DIFFUSERS.state_dict(traverse_util.flatten_dict(zeros, sep="/"))
    with torch.device("meta"):
        theirs = build(192, 4).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: tuple(v.shape) for k, v in theirs.items()}
