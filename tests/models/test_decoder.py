"""Deterministic decoders: what they look at, and how pixels come out of channels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from epsilon_vae.models.decoder import SDDecoder, VAEDecoder
from epsilon_vae.models.omni import OmniDecoder

DECODERS = [
    VAEDecoder(channels=16, blocks=1, multipliers=(1, 2), groups=8),
    SDDecoder(channels=16, blocks=1, multipliers=(1, 2), groups=8),
    OmniDecoder(patch=2, width=16, heads=2, depth=1),
]


@pytest.mark.parametrize("decoder", DECODERS, ids=lambda decoder: type(decoder).__name__)
def test_image_is_of_the_latents_alone(decoder):
    latents = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    params = decoder.init(jax.random.key(1), None, None, latents)
    image = decoder.apply(params, None, None, latents)
    assert image.shape == (2, 8, 8, 3) and image.dtype == jnp.float32
    noisy, t = jnp.ones((2, 8, 8, 3)), jnp.ones((2,))
    np.testing.assert_array_equal(decoder.apply(params, noisy, t, latents), image)
    other = decoder.apply(params, None, None, latents.at[0].add(1.0))
    assert np.abs(other - image)[0].max() > 1e-3 and np.abs(other - image)[1].max() < 1e-6
