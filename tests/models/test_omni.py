"""OmniTokenizer's layers against their formulas in NumPy, and at sizes that do not fit them."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from epsilon_vae.models import omni
from tests.golden_params import assert_close

HEADS = 2


def filled(module, x) -> dict:
    """Parameters of `module`, all random."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    random = np.random.RandomState(0)
    return jax.tree.map(lambda leaf: 0.5 * random.standard_normal(leaf.shape), shapes)


def run(module, params, x) -> dict:
    with jax.default_matmul_precision("highest"):
        return {"output": module.apply({"params": params}, x)}


def images(*shape: int) -> np.ndarray:
    return np.random.RandomState(1).standard_normal(shape).astype(np.float32)


def normed(x, params) -> np.ndarray:
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return x * params["scale"] + params.get("bias", 0)


def attended(query, key, value, bias=0.0) -> np.ndarray:
    """Of `[B, T, heads, D]`; `bias` is on the logits `[B, heads, T, T]`."""
    logits = np.einsum("bqhd,bkhd->bhqk", query, key) + bias
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("bhqk,bkhd->bqhd", weights, value)


@pytest.mark.parametrize("size", [(8, 4), (5, 7), (3, 2)])
def test_windows_are_full_attention_that_is_masked(size):
    """Windows of 4 × 4, whole and cut off."""
    height, width = size
    x = images(2, height, width, 8)
    module = omni.WindowAttention(HEADS, 4, jnp.float32)
    params = filled(module, x)
    qkv = normed(x, params["norm"]) @ params["qkv"]["kernel"]
    query, key, value = np.moveaxis(qkv.reshape(2, -1, 3, HEADS, 4), 2, 0)
    places = [(row, column) for row in range(height) for column in range(width)]
    bias = np.full((HEADS, len(places), len(places)), -np.inf)
    for i, (row, column) in enumerate(places):
        for j, (other_row, other_column) in enumerate(places):
            if (row // 4, column // 4) == (other_row // 4, other_column // 4):
                offset = 7 * (row - other_row + 3) + column - other_column + 3
                bias[:, i, j] = params["position_bias"][offset]
    expected = attended(query / np.sqrt(4), key, value, bias).reshape(x.shape)
    expected = expected @ params["out"]["kernel"] + params["out"]["bias"]
    assert_close(run(module, params, x), {"output": expected})


def test_global_attention_is_of_cosines():
    """Positions turn pairs of channels; keys and values are of what is not normalised."""
    x = images(2, 3, 5, 16)
    module = omni.GlobalAttention(HEADS, jnp.float32)
    params = filled(module, x)

    def turned(x, scale):
        """Each of the four pairs of a head by its own angle."""
        pairs = x.reshape(2, 3, 5, HEADS, 4, 2)
        numbers = pairs[..., 0] + 1j * pairs[..., 1]
        for row in range(3):
            for column in range(5):
                angles = np.array([column, row, column / 100, row / 100])
                numbers[:, row, column] *= np.exp(1j * angles)
        x = np.stack([numbers.real, numbers.imag], axis=-1).reshape(2, 15, HEADS, 8)
        return x / np.linalg.norm(x, axis=-1, keepdims=True) * scale

    query = turned(normed(x, params["norm"]) @ params["query"]["kernel"], params["query_scale"])
    key, value = np.split(x @ params["key_value"]["kernel"], 2, axis=-1)
    key = turned(key, params["key_scale"])
    expected = attended(8 * query, key, value.reshape(2, 15, HEADS, 8)).reshape(x.shape)
    assert_close(run(module, params, x), {"output": expected @ params["out"]["kernel"]})


def test_block_adds_positions_attention_and_geglu():
    x = images(1, 4, 3, 8)
    module = omni.OmniBlock(kind="frame", heads=HEADS, window=4, dtype=jnp.float32)
    params = filled(module, x)
    h = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    kernel = params["positions"]["kernel"]
    assert kernel.shape == (3, 3, 1, 8)
    shifts = [(i, j) for i in range(3) for j in range(3)]
    positions = sum(h[:, i : i + 4, j : j + 3] * kernel[i, j, 0] for i, j in shifts)
    h = x + positions + params["positions"]["bias"]
    h = h + h @ params["attention"]["value"]["kernel"] @ params["attention"]["out"]["kernel"]
    hidden = normed(h, params["mlp_norm"]) @ params["mlp_hidden"]["kernel"]
    assert hidden.shape[-1] == 2 * 21  # int(8 / 3 * 8)
    hidden, gate = np.split(hidden, 2, axis=-1)
    gelu = gate * (1 + np.vectorize(math.erf)(gate / np.sqrt(2))) / 2
    expected = h + (hidden * gelu) @ params["mlp_out"]["kernel"]
    assert_close(run(module, params, x), {"output": expected})


def test_encoder_takes_constant_images_of_any_size_and_has_finite_gradients():
    """The keys of a constant image begin at 0, which has no direction."""
    module = omni.OmniEncoder(n_z=3, patch=4, width=16, heads=HEADS, depth=2, window=4)
    x = jnp.ones((1, 20, 28, 3))
    params = module.init(jax.random.key(0), x)
    latents, pullback = jax.vjp(module.apply, params, x)
    assert latents.shape == (1, 5, 7, 3) and latents.dtype == jnp.float32
    gradients = jax.tree.leaves(pullback(jnp.ones_like(latents)))
    assert all(np.isfinite(gradient).all() for gradient in gradients)
