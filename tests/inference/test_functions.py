"""The pure functions: as the object's methods, under jit, vmap, grad and on meshes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from epsilon_vae.data.transforms import to_float
from epsilon_vae.inference.autoencoder import Autoencoder
from epsilon_vae.models.build import build_networks, build_process
from epsilon_vae.models.unet import UNET_SIZES
from tests import micro
from tests.helpers import QUICK_COMPILE, QUICK_FLAGS, held_out_images
from tests.processes import finish


def quick_jit(function, **options):
    return jax.jit(function, compiler_options=QUICK_COMPILE, **options)


def random_autoencoder() -> Autoencoder:
    """Of random weights, none of them 0, so that all of them matter."""
    config = micro.get_config()
    networks = build_networks(config)
    params = quick_jit(networks.init, static_argnums=1)(jax.random.key(0), 32)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: x + 0.02 * rng.standard_normal(x.shape, np.float32), params)
    return Autoencoder(networks, build_process(config), spacing="uniform", params=params)


@pytest.fixture(scope="module")
def vae() -> Autoencoder:
    return random_autoencoder()


@pytest.fixture(scope="module")
def key() -> jax.Array:
    return jax.random.key(0)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return to_float(held_out_images(32))[:2]


@pytest.fixture(scope="module")
def latents(vae, images) -> np.ndarray:
    return vae.encode(images)


def test_functions_are_the_methods(vae, images, latents):
    found = quick_jit(vae.functions.encode)(vae.params, images)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, latents, atol=1e-5)
    decode = quick_jit(vae.functions.decode, static_argnames="steps")
    decoded = decode(vae.params, latents, jax.random.key(5), steps=2)
    np.testing.assert_allclose(decoded, vae.decode(latents, 2, 5), atol=1e-5)
    one = decode(vae.params, latents[0], jax.random.PRNGKey(5), steps=2)
    np.testing.assert_allclose(one, decoded[0], atol=1e-5)


def test_vmap(vae, images, latents, key):
    encode = quick_jit(jax.vmap(vae.functions.encode, (None, 0)))
    np.testing.assert_allclose(encode(vae.params, images), latents, atol=1e-5)
    keys = jax.random.split(key, 2)
    decode = quick_jit(jax.vmap(vae.functions.decode, (None, None, 0)))
    each = decode(vae.params, latents[0], keys)
    assert each.shape == (2, 32, 32, 3) and np.abs(each[0] - each[1]).max() > 1e-3
    together = quick_jit(vae.functions.decode)(vae.params, latents[:1].repeat(2, 0), keys)
    np.testing.assert_allclose(each, together, atol=1e-5)


def test_grad_is_the_slope(vae, images, key):
    """Of a reconstruction, by parameters and images."""

    def loss(params, images):
        latents = vae.functions.encode(params, images)
        return jnp.mean((vae.functions.decode(params, latents, key, 2) - images) ** 2)

    by_params, by_images = quick_jit(jax.grad(loss, (0, 1)))(vae.params, images)
    leaves = jax.tree.leaves(by_params)
    assert all(np.isfinite(x).all() for x in leaves)
    assert np.mean([np.abs(x).max() > 0 for x in leaves]) > 0.9
    value = quick_jit(loss)
    ends = [value(vae.params, images + e * np.sign(by_images)) for e in (1e-2, -1e-2)]
    slope = (ends[0] - ends[1]) / 2e-2
    np.testing.assert_allclose(np.abs(by_images).sum(), slope, rtol=0.05)


def test_arrays_that_are_spread_over_devices(run_module):
    finish(run_module("tests.inference.functions_on_meshes", **QUICK_FLAGS))


def test_arguments_that_are_refused(vae, images, latents, key, monkeypatch, small_config):
    encode, decode = vae.functions.encode, vae.functions.decode
    for bad, words in (
        (images[..., :1], r"expected \[\(B,\) H, W, 3\]"),
        (images[:, :31], "sides must be multiples of 4"),
        (images.astype(np.uint8), "images of uint8"),
    ):
        with pytest.raises(ValueError, match=words):
            encode(vae.params, bad)
    with pytest.raises(ValueError, match=r"expected \[\(B,\) h, w, 8\]"):
        decode(vae.params, latents[..., :4], key)
    with pytest.raises(ValueError, match=r"key = 0: expected jax.random.key"):
        decode(vae.params, latents, 0)
    with pytest.raises(ValueError, match="steps = 0: at least 1"):
        decode(vae.params, latents, key, 0)
    with pytest.raises(ValueError, match="static_argnames='steps'"):
        jax.jit(decode)(vae.params, latents, key, 2)
    monkeypatch.setitem(UNET_SIZES["micro"], "multipliers", (1, 1, 1, 1))
    other = Autoencoder(build_networks(small_config), vae.process, spacing="uniform", params={})
    with pytest.raises(ValueError, match="sides must be multiples of 2"):
        other.functions.decode({}, latents[:, :7], key)


def test_methods_inside_jit_name_the_functions(vae, images, latents):
    for method, array in ((vae.encode, images), (vae.decode, latents), (vae.reconstruct, images)):
        with pytest.raises(ValueError, match="traced: .*vae.functions.encode and decode"):
            jax.jit(method)(array)
