"""LiteVAE's encoder: its wavelets against their definition, and what its latents depend on."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from epsilon_vae.models.litevae import LiteVAEEncoder, haar
from tests import golden_params

LOW, HIGH = np.array([1, 1]) / np.sqrt(2), np.array([1, -1]) / np.sqrt(2)


def images(size: int) -> jax.Array:
    return jax.random.uniform(jax.random.key(0), (2, size, size, 3), minval=-1, maxval=1)


def test_haar_is_the_products_of_the_two_filters():
    """Over rows and columns, pixel by pixel: LL, then differences of rows, columns and both."""
    x = np.asarray(images(8))
    expected = np.zeros((2, 4, 4, 12))
    filters = [(LOW, LOW), (HIGH, LOW), (LOW, HIGH), (HIGH, HIGH)]
    for band, (over_rows, over_columns) in enumerate(filters):
        for i, j, channel in itertools.product(range(4), range(4), range(3)):
            patch = x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, channel]
            value = np.einsum("bhw,h,w->b", patch, over_rows, over_columns)
            expected[:, i, j, 3 * band + channel] = value
    np.testing.assert_allclose(haar(jnp.asarray(x)), expected, atol=1e-6)


def test_haar_keeps_energy_at_every_level():
    x = images(16)
    low, energy = x, 0.0
    for _ in range(3):
        bands = haar(low)
        low, high = bands[..., :3], bands[..., 3:]
        energy += np.sum(np.square(high))
    np.testing.assert_allclose(energy + np.sum(np.square(low)), np.sum(np.square(x)), rtol=1e-5)


def test_latents_are_an_eighth_and_every_parameter_counts():
    encoder, x = LiteVAEEncoder(n_z=4, extractor=(8,), aggregator=(8,)), images(16)
    params = golden_params.random_params(encoder, {"images": x})

    @jax.jit
    def run(params: dict) -> tuple[jax.Array, dict]:
        output, pullback = jax.vjp(lambda p: encoder.apply({"params": p}, x), params)
        return output, pullback(jnp.sin(jnp.arange(output.size)).reshape(output.shape))[0]

    output, gradients = run(params)
    assert output.shape == (2, 2, 2, 4) and output.dtype == jnp.float32
    assert all(np.abs(gradient).max() > 1e-6 for gradient in jax.tree.leaves(gradients))
