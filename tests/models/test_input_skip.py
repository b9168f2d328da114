"""The skip of the noisy input around a decoder: nothing at first, then a gain of t."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from epsilon_vae.config import ConfigError, from_dict
from epsilon_vae.models.build import build_networks
from epsilon_vae.models.input_skip import InputSkip
from tests import micro


def with_skip():
    config = micro.get_config()
    config.model.decoder.input_skip = True
    return config


@pytest.fixture(scope="module")
def parts():
    """A decoder of the smallest size with a skip, its parameters, and inputs at two times."""
    networks = build_networks(with_skip())
    keys = jax.random.split(jax.random.key(0), 4)
    x = jax.random.normal(keys[0], (2, 32, 32, 3))
    latents = jax.random.normal(keys[1], (2, 8, 8, 8))
    inputs = x, jnp.array([0.3, 0.9]), latents
    params = networks.decoder.init(keys[2], *inputs)["params"]
    flat = traverse_util.flatten_dict(params, sep="/")
    last = "decoder/conv_out/kernel"  # begins at 0, and so would the output
    flat[last] = 0.1 * jax.random.normal(keys[3], flat[last].shape)
    return networks.decoder, traverse_util.unflatten_dict(flat, sep="/"), inputs


def test_it_begins_as_the_decoder_alone(parts):
    decoder, params, inputs = parts
    assert isinstance(decoder, InputSkip)
    alone = decoder.decoder.apply({"params": params["decoder"]}, *inputs)
    assert np.std(alone) > 0.1
    np.testing.assert_array_equal(decoder.apply({"params": params}, *inputs), alone)


def test_it_adds_the_input_by_a_gain_of_time_and_channel(parts):
    decoder, params, inputs = parts
    bias = params | {"gain": params["gain"] | {"bias": jnp.array([1.0, 0.0, -2.0])}}
    before, after = (decoder.apply({"params": p}, *inputs) for p in (params, bias))
    np.testing.assert_allclose(after - before, inputs[0] * np.array([1.0, 0.0, -2.0]), atol=1e-5)
    kernel = jax.random.normal(jax.random.key(1), params["gain"]["kernel"].shape)
    after = decoder.apply(
        {"params": params | {"gain": params["gain"] | {"kernel": kernel}}}, *inputs
    )
    x, change = inputs[0], after - before
    gains = jnp.sum(change * x, axis=(1, 2)) / jnp.sum(x**2, axis=(1, 2))
    np.testing.assert_allclose(change, gains[:, None, None] * x, atol=1e-4)
    assert np.abs(gains[0] - gains[1]).min() > 1e-3


def test_the_last_layer_is_found(parts):
    decoder, params, _ = parts
    assert f"{decoder.last_layer}/kernel" in traverse_util.flatten_dict(params, sep="/")


def test_decoders_without_noisy_input_have_none():
    config = with_skip()
    config.model.decoder.name, config.flow.process = "vae", "direct"
    with pytest.raises(ConfigError, match="input_skip = True: decoder.name = 'vae' has no noisy"):
        build_networks(config)
    config.model.decoder.name, config.flow.process = "dit", "rectified_flow"
    assert isinstance(build_networks(config).decoder, InputSkip)


def test_a_config_of_before_has_none():
    values = with_skip().to_dict()
    del values["model"]["decoder"]["input_skip"], values["data"]["permute_colors"]
    config = from_dict(values)
    assert config.model.decoder.input_skip is False and config.is_locked
    assert config.data.permute_colors is False
    assert not isinstance(build_networks(config).decoder, InputSkip)
