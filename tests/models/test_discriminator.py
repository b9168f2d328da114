"""The discriminator's convolutions are the plain ones; it takes any size from 24 px on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from epsilon_vae.models.discriminator import Discriminator, StridedConv


def test_strided_convolution_is_the_plain_one():
    x = jax.random.normal(jax.random.key(0), (2, 12, 16, 5))
    layer = StridedConv(7, True, jnp.float32)
    params = layer.init(jax.random.key(1), x)["params"]
    params["bias"] = jnp.arange(7.0)

    def plain(params, x):
        y = jax.lax.conv_general_dilated(
            x, params["kernel"], (2, 2), [(1, 1)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return y + params["bias"]

    def ours(params, x):
        return layer.apply({"params": params}, x)

    np.testing.assert_allclose(ours(params, x), plain(params, x), atol=1e-5)
    weights = jax.random.normal(jax.random.key(2), (2, 6, 8, 7))
    grads = [
        jax.grad(lambda p, x: jnp.sum(f(p, x) * weights), argnums=(0, 1))(params, x)  # noqa: B023
        for f in (ours, plain)
    ]
    for a, b in zip(jax.tree.leaves(grads[0]), jax.tree.leaves(grads[1]), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(24, 24), (64, 128), (256, 256)])
def test_logits_are_patches_at_any_size(height, width):
    module = Discriminator(channels=16)
    t = jax.ShapeDtypeStruct((1,), jnp.float32)

    def logits(size: tuple[int, int]):
        x = jax.ShapeDtypeStruct((1, *size, 6), jnp.float32)
        return jax.eval_shape(module.init_with_output, jax.random.key(0), x, t)

    out, variables = logits((height, width))
    assert out.shape == (1, height // 8 - 2, width // 8 - 2, 1)
    same = logits((64, 64))[1]
    assert jax.tree.map(lambda x: x.shape, variables) == jax.tree.map(lambda x: x.shape, same)
