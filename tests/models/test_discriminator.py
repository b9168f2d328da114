"""The discriminator's convolutions are the plain ones; it takes any size from 24 px on."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from epsilon_vae.models.discriminator import DISCRIMINATORS, PatchConv, StridedConv, convolve
from epsilon_vae.training.build import build_objective
from tests import micro
from tests.helpers import QUICK_COMPILE


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


def test_gradients_gradients_of_a_convolution_are_the_plain_ones():
    """By image and kernel, of a function of the gradients to both, as R1 is of one."""
    x = jax.random.normal(jax.random.key(0), (2, 5, 6, 3))
    kernel = jax.random.normal(jax.random.key(1), (2, 2, 3, 4))
    padding = ((1, 0), (1, 1))

    def plain(x, kernel, padding):
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def second(function):
        def size(x, kernel):
            grads = jax.grad(lambda *a: jnp.sum(function(*a, padding) ** 3), (0, 1))(x, kernel)
            return sum(jnp.sum(grad**2) for grad in grads)

        return jax.jit(jax.grad(size, (0, 1)), compiler_options=QUICK_COMPILE)(x, kernel)

    for ours, theirs in zip(second(convolve), second(plain), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * float(jnp.max(theirs)))


@pytest.mark.parametrize("size", [3, 4, 5])
def test_last_convolution_is_the_plain_one(size):
    """Of images smaller than its kernel, and of a larger one."""
    x = jax.random.normal(jax.random.key(0), (2, size, size, 8))
    layer = PatchConv(4)
    params = layer.init(jax.random.key(1), x)
    plain = nn.Conv(4, (4, 4), padding=1, use_bias=False)
    np.testing.assert_allclose(layer.apply(params, x), plain.apply(params, x), atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(24, 24), (64, 128), (256, 256)])
@pytest.mark.parametrize(("name", "border"), [("patch", 2), ("residual", 0)])
def test_logits_are_patches_at_any_size(name, border, height, width):
    module = DISCRIMINATORS[name](channels=16)
    t = jax.ShapeDtypeStruct((1,), jnp.float32)

    def logits(size: tuple[int, int]):
        x = jax.ShapeDtypeStruct((1, *size, 6), jnp.float32)
        return jax.eval_shape(module.init_with_output, jax.random.key(0), x, t)

    out, variables = logits((height, width))
    assert out.shape == (1, height // 8 - border, width // 8 - border, 1)
    same = logits((64, 64))[1]
    assert jax.tree.map(lambda x: x.shape, variables) == jax.tree.map(lambda x: x.shape, same)


def test_residual_keeps_the_size_of_its_logits_at_any_time_and_scale():
    """Without norms, He initialisation alone keeps the signal: of unit noise, logits of size 1."""
    module = DISCRIMINATORS["residual"](channels=16)
    x = jax.random.normal(jax.random.key(0), (4, 32, 32, 6))
    t = jnp.array([0.0, 0.3, 0.6, 1.0])
    init = jax.jit(module.init, compiler_options=QUICK_COMPILE)
    params = init(jax.random.key(1), x, t)
    apply = jax.jit(module.apply, compiler_options=QUICK_COMPILE)
    logits = apply(params, x, t)
    assert 0.3 < float(jnp.std(logits)) < 3
    # A different time moves every image's logits; twice the contrast is seen, not divided out.
    assert np.all(np.max(np.abs(apply(params, x, 1.1 - t) - logits), axis=(1, 2, 3)) > 1e-3)
    assert float(jnp.std(apply(params, 2 * x, t))) > 1.5 * float(jnp.std(logits))


@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_computes_in_float32_whatever_the_others_compute_in(name):
    """No array of less than 32 bits in the whole program, of a config in bfloat16."""
    config = micro.get_config()
    config.dtype, config.model.discriminator.name = "bfloat16", name
    adversary = build_objective(config).adversary
    params = jax.eval_shape(lambda key: adversary.init(key, 32), jax.random.key(0))
    x, t = jnp.zeros((1, 32, 32, 6)), jnp.zeros((1,))
    program = jax.make_jaxpr(adversary.discriminator.apply)({"params": params}, x, t)
    assert "conv_general_dilated" in str(program) and "bf16" not in str(program)
