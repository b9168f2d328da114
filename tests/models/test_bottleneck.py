"""Bottlenecks on an encoder that passes its input on: what they draw, choose, cost and measure."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from epsilon_vae.models.bottleneck import KLBottleneck, VQBottleneck


class Itself(nn.Module):
    """Images are their own latents."""

    @nn.compact
    def __call__(self, images):
        return images


def test_kl_draws_from_the_gaussian_and_pays_for_it():
    images = jax.random.normal(jax.random.key(0), (2, 3, 3, 4))
    noise = jax.random.normal(jax.random.key(1), (2, 3, 3, 2))
    kl = KLBottleneck(encoder=Itself(), n_z=2, weight=0.1, has_conv=False)
    mean, log_variance = images[..., :2], images[..., 2:]
    np.testing.assert_array_equal(kl.apply({}, images), mean)
    latents, loss, metrics = kl.apply({}, images, noise, method="train")
    np.testing.assert_allclose(latents, mean + np.exp(log_variance / 2) * noise, rtol=1e-6)
    expected = 0
    for m, v in zip(np.ravel(mean), np.exp(np.ravel(log_variance)), strict=True):
        expected += (np.log(1 / np.sqrt(v)) + (v + m**2) / 2 - 0.5) / 2  # of N(0, 1); two images
    assert metrics["loss/kl"] == pytest.approx(expected, rel=1e-5)
    assert loss == pytest.approx(0.1 * expected / 36, rel=1e-5)


def quantizer(commitment=0.25, **options):
    """A codebook of five points of the plane, and a convolution that changes nothing."""
    module = VQBottleneck(encoder=Itself(), num_codes=5, n_z=2, commitment=commitment, **options)
    codes = jnp.array([[0.0, 0], [1, 0], [0, 1], [2, 2], [9, 9]])
    conv = {"kernel": jnp.eye(2)[None, None], "bias": jnp.zeros(2)}
    return module, {"params": {"codebook": codes, "quant_conv": conv}}


Z = jnp.array([[[[0.1, 0.2], [0.9, -0.3]], [[0.2, 0.7], [3.0, 2.5]]]])
NEAREST = np.array([[[[0.0, 0], [1, 0]], [[0, 1], [2, 2]]]])


def test_vq_takes_the_nearest_code():
    module, params = quantizer()
    np.testing.assert_array_equal(module.apply(params, Z), NEAREST)
    latents, _, metrics = module.apply(params, Z, None, method="train")
    np.testing.assert_allclose(latents, NEAREST, atol=1e-6)
    assert metrics["codes/usage"] == pytest.approx(4 / 5)
    assert metrics["codes/perplexity"] == pytest.approx(4, rel=1e-5)


@pytest.mark.parametrize(("is_legacy", "of_latents", "of_codes"), [(0, 0.25, 1), (1, 1, 0.25)])
def test_commitment_is_on_the_encoders_term(is_legacy, of_latents, of_codes):
    module, params = quantizer(commitment=0.25, is_legacy=bool(is_legacy))

    def loss(params, z):
        return module.apply(params, z, None, method="train").loss

    by_params, by_z = jax.grad(loss, argnums=(0, 1))(params, Z)
    difference = 2 * (Z - NEAREST) / Z.size
    np.testing.assert_allclose(by_z, of_latents * difference, rtol=1e-5)
    chosen = -of_codes * difference.reshape(-1, 2)
    np.testing.assert_allclose(by_params["params"]["codebook"][:4], chosen, rtol=1e-5)
    np.testing.assert_array_equal(by_params["params"]["codebook"][4], 0)


def test_gradients_pass_the_quantization():
    module, params = quantizer()
    weights = jnp.arange(8.0).reshape(Z.shape)

    def projected(z):
        return jnp.sum(weights * module.apply(params, z, None, method="train").latents)

    np.testing.assert_allclose(jax.grad(projected)(Z), weights, rtol=1e-6)


def test_normalized_codes_are_compared_by_direction():
    module, params = quantizer(is_normalized=True)
    codes = module.apply(params, jnp.array([[[[5.0, 0.1], [0.1, 30.0]]]]))
    np.testing.assert_allclose(codes, [[[[1, 0], [0, 1]]]], atol=1e-6)


def test_a_latent_of_zeros_has_a_gradient():
    module, params = quantizer(is_normalized=True)

    def loss(images):
        return module.apply(params, images, None, method="train").loss

    assert np.isfinite(jax.grad(loss)(jnp.zeros((1, 1, 2, 2)))).all()
