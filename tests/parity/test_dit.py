"""Our DiT equals diffusers' DiTTransformer2DModel and the public code: outputs and gradients."""

import jax
import numpy as np
import pytest
from flax import traverse_util

from epsilon_vae.models.dit import ClassDiT, DiT, sincos_positions
from epsilon_vae.pretrained import dit_layouts
from epsilon_vae.pretrained.layouts import DIFFUSERS, DIT
from tests import golden_params
from tests.parity.requirements import require

require("diffusers")
import torch  # noqa: E402
from torch.nn import functional  # noqa: E402

from tests.parity import reference  # noqa: E402

LABELS = 10  # as reference.build_dit has


def flatten(params: dict) -> dict[str, np.ndarray]:
    return traverse_util.flatten_dict(jax.tree.map(np.asarray, params), sep="/")


def class_dit(patch: int) -> tuple[ClassDiT, dict, dict]:
    """A small network with a learned variance, its random weights, and inputs."""
    dit = DiT(depth=2, width=48, heads=3, patch=patch, out_channels=8)
    module = ClassDiT(dit, LABELS)
    inputs = {
        "x": np.random.RandomState(1).standard_normal((2, 8, 8, 4)).astype(np.float32),
        # As exact in float32 as their product with 1000.
        "t": np.array([0.25, 0.8125], np.float32),
        "labels": np.array([3, LABELS]),  # the latter stands for none
    }
    return module, golden_params.random_params(module, inputs), inputs


@pytest.mark.parametrize("gain", golden_params.GAINS)
def test_decoder_equals_diffusers(gain):
    """By x, t, latents and every parameter."""
    module = golden_params.MODELS["dit_decoder"]
    inputs = golden_params.model_inputs(module)
    params = golden_params.random_params(module, inputs, gain)
    expected = reference.run_torch(module, params, inputs)
    golden_params.assert_close(golden_params.run_flax(module, params, inputs), expected)


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_class_conditional_network_equals_diffusers(patch):
    """By x, t and every parameter, the label's embedding too."""
    module, params, inputs = class_dit(patch)
    expected = reference.run_torch(module, params, inputs)
    golden_params.assert_close(golden_params.run_flax(module, params, inputs), expected)


def test_class_conditional_network_equals_the_public_code():
    """By names of its weights, in the layout that they are imported from; they come back."""
    module, params, inputs = class_dit(2)
    flat = flatten(params)
    state = dit_layouts.state_dict(DIT, flat, 2)
    weights = {name: torch.tensor(x, requires_grad=True) for name, x in state.items()}
    x = torch.tensor(inputs["x"], requires_grad=True)
    steps, labels = torch.tensor([250.0, 812.5]), torch.tensor(inputs["labels"])
    output = public_dit(weights, x.permute(0, 3, 1, 2), steps, labels, 2, 3).permute(0, 2, 3, 1)
    output.backward(torch.tensor(golden_params.projection(output.shape)))
    expected = {name: weight.grad.numpy() for name, weight in weights.items()}
    expected |= {"x": x.grad.numpy(), "output": output.detach().numpy()}

    def public_names(module, grads):
        del module
        return dit_layouts.state_dict(DIT, flatten(grads), 2)

    actual = golden_params.run_flax(module, params, inputs, public_names)
    del actual["t"]
    golden_params.assert_close(actual, expected)

    positions = np.asarray(sincos_positions(4, 4, 48)).reshape(1, 16, 48)
    shapes = {path: value.shape for path, value in flat.items()}
    back = dit_layouts.parameters(DIT, state | {"pos_embed": positions}, shapes=shapes, patch=2)
    assert back.keys() == flat.keys()
    for path, value in back.items():
        np.testing.assert_array_equal(value, flat[path])


def public_dit(
    state: dict[str, torch.Tensor],
    x: torch.Tensor,
    steps: torch.Tensor,
    labels: torch.Tensor,
    patch: int,
    heads: int,
) -> torch.Tensor:
    """DiT of x `[B, C, H, W]`, as Peebles & Xie describe it, by the public names of its weights."""

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def modulated(x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        normed = functional.layer_norm(x, x.shape[-1:], eps=1e-6)
        return normed * (1 + scale[:, None]) + shift[:, None]

    angles = steps[:, None] * 10000.0 ** (-torch.arange(128) / 128)
    sinusoids = torch.cat([torch.cos(angles), torch.sin(angles)], dim=1)
    time = linear("t_embedder.mlp.2", functional.silu(linear("t_embedder.mlp.0", sinusoids)))
    condition = functional.silu(time + state["y_embedder.embedding_table.weight"][labels])
    convolution = state["x_embedder.proj.weight"], state["x_embedder.proj.bias"]
    x = functional.conv2d(x, *convolution, stride=patch)
    batch, width, rows, columns = x.shape
    positions = np.array(sincos_positions(rows, columns, width)).reshape(-1, width)
    x = x.flatten(2).transpose(1, 2) + torch.tensor(positions)
    for i in range(sum(name.endswith("attn.qkv.weight") for name in state)):
        adaptive = linear(f"blocks.{i}.adaLN_modulation.1", condition).chunk(6, dim=1)
        shift1, scale1, gate1, shift2, scale2, gate2 = adaptive
        qkv = linear(f"blocks.{i}.attn.qkv", modulated(x, shift1, scale1))
        qkv = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        h = functional.scaled_dot_product_attention(*qkv).transpose(1, 2).flatten(2)
        x = x + gate1[:, None] * linear(f"blocks.{i}.attn.proj", h)
        h = linear(f"blocks.{i}.mlp.fc1", modulated(x, shift2, scale2))
        h = linear(f"blocks.{i}.mlp.fc2", functional.gelu(h, approximate="tanh"))
        x = x + gate2[:, None] * h
    shift, scale = linear("final_layer.adaLN_modulation.1", condition).chunk(2, dim=1)
    x = linear("final_layer.linear", modulated(x, shift, scale))
    x = x.reshape(batch, rows, columns, patch, patch, -1).permute(0, 5, 1, 3, 2, 4)
    return x.reshape(batch, -1, rows * patch, columns * patch)


def test_weights_of_diffusers_come_back():
    """From the network as its class makes it: embeddings in every block, all alike."""
    module, params, inputs = class_dit(2)
    flat = flatten(params)
    shapes = {path: value.shape for path, value in flat.items()}
    theirs = reference.build_dit(module.dit, inputs["x"])
    state = {name: value.numpy() for name, value in theirs.state_dict().items()}
    prefix = "transformer_blocks.0.norm1.emb."
    first = {name: x for name, x in state.items() if name.startswith(prefix)}
    for name, value in first.items():
        state[name.replace("blocks.0.", "blocks.1.")] = value
    assert dit_layouts.detect(state) is DIFFUSERS
    assert dit_layouts.parameters(DIFFUSERS, state, shapes=shapes, patch=2).keys() == flat.keys()
    ours = {name: value.copy() for name, value in state.items()}
    ours |= dit_layouts.state_dict(DIFFUSERS, flat, 2)
    for name in first:
        ours[name.replace("blocks.0.", "blocks.1.")] = ours[name]
    back = dit_layouts.parameters(DIFFUSERS, ours, shapes=shapes, patch=2)
    for path, value in back.items():
        np.testing.assert_array_equal(value, flat[path])
    table = "transformer_blocks.1.norm1.emb.class_embedder.embedding_table.weight"
    ours[table] = ours[table] + 1
    with pytest.raises(ValueError, match=f"{table} is not .*one embedding for all"):
        dit_layouts.parameters(DIFFUSERS, ours, shapes=shapes, patch=2)
