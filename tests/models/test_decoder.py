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


def test_a_mask_says_what_is_decoded_and_what_is_known():
    """With all masked it is the plain decoder; otherwise the known part of the image is seen."""
    decoder = SDDecoder(multipliers=(1, 2), channels=16, blocks=1, groups=8, takes_mask=True)
    keys = jax.random.split(jax.random.key(0), 3)
    latents = jax.random.normal(keys[0], (1, 4, 4, 3))
    image = jax.random.uniform(keys[1], (1, 8, 8, 3), minval=-1, maxval=1)
    params = decoder.init(keys[2], None, None, latents)

    def decode(image, mask):
        return decoder.apply(params, None, None, latents, image=image, mask=mask)

    whole, half = jnp.ones((1, 8, 8, 1)), jnp.ones((1, 8, 8, 1)).at[:, :4].set(0)
    plain = decoder.apply(params, None, None, latents)
    np.testing.assert_allclose(decode(image, whole), plain, atol=1e-6)
    assert np.abs(decode(image, half) - plain).max() > 1e-2
    hidden = image.at[:, 4:].add(1.0)
    np.testing.assert_array_equal(decode(hidden, half), decode(image, half))


@pytest.mark.parametrize("takes_mask", [True, False])
def test_image_and_mask_go_together(takes_mask):
    decoder = SDDecoder(multipliers=(1, 2), channels=16, blocks=1, groups=8, takes_mask=takes_mask)
    inputs = {"image": jnp.zeros((1, 8, 8, 3)), "mask": jnp.zeros((1, 8, 8, 1))}
    if takes_mask:
        del inputs["mask"]
    with pytest.raises(ValueError, match="go together, and to a decoder with takes_mask alone"):
        decoder.init(jax.random.key(0), None, None, jnp.zeros((1, 4, 4, 3)), **inputs)
