"""Attention block by block is the whole one, forward and backward; pixels come out of channels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from epsilon_vae.models import layers


@pytest.mark.parametrize("tokens", [64, 100])
def test_blocked_attention_is_exact(monkeypatch, tokens):
    shape = (2, tokens, 3, 8)
    qkv = [jax.random.normal(key, shape) for key in jax.random.split(jax.random.key(0), 3)]

    def value_and_grads():
        def loss(qkv):
            return jnp.sum(jnp.sin(layers.attend(*qkv)))

        return layers.attend(*qkv), jax.grad(loss)(qkv)

    whole = value_and_grads()
    monkeypatch.setattr(layers, "MAX_WHOLE_TOKENS", 32)
    monkeypatch.setattr(layers, "QUERY_BLOCK", 32)
    for a, b in zip(jax.tree.leaves(value_and_grads()), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_large_attention_takes_memory_linear_in_the_tokens():
    def temporaries(tokens: int) -> int:
        x = jax.ShapeDtypeStruct((1, tokens, 1, 32), jnp.float32)
        compiled = jax.jit(layers.attend).lower(x, x, x).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries(32768) < 2.2 * temporaries(16384)


def test_depth_to_space_fills_each_pixels_square():
    x = jnp.arange(2 * 3 * 8, dtype=jnp.float32).reshape(1, 2, 3, 8)
    y = layers.depth_to_space(x)
    assert y.shape == (1, 4, 6, 2)
    np.testing.assert_array_equal(y[0, :2, :2].reshape(-1), x[0, 0, 0])
    np.testing.assert_array_equal(y[0, 2:, 4:].reshape(-1), x[0, 1, 2])
    np.testing.assert_array_equal(layers.space_to_depth(y, 2), x)
