"""The sampler against processes whose answer is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from epsilon_vae.diffusion.path import DDPM, RectifiedFlow
from epsilon_vae.diffusion.sampler import sample
from epsilon_vae.diffusion.time import reversed_log, uniform_spacing

SHAPE = (2, 8, 8, 3)
X0 = jax.random.uniform(jax.random.key(1), SHAPE, minval=-0.9, maxval=0.9)
KEY = jax.random.key(7)


def oracle_velocity(flow: RectifiedFlow):
    """The velocity that an ideal decoder would see from the noise: constant along the path."""
    noise = jax.random.normal(jax.random.fold_in(KEY, 0), (1, *SHAPE[1:]))
    return lambda x, t: flow.target(X0, noise)


@pytest.mark.parametrize("nfe", [1, 3, 10])
def test_euler_with_the_true_velocity_arrives_at_the_image(nfe):
    flow = RectifiedFlow(0.6)
    images = sample(flow, oracle_velocity(flow), reversed_log(nfe), KEY, SHAPE)
    np.testing.assert_allclose(images, X0, atol=1e-5)


def test_euler_is_the_written_out_loop():
    """A velocity field that bends: the result must be the one of these very times."""
    flow, times = RectifiedFlow(0.6), reversed_log(3)

    def predict(x, t):
        return x * jnp.cos(3 * t)[:, None, None, None]

    x = jnp.broadcast_to(jax.random.normal(jax.random.fold_in(KEY, 0), (1, *SHAPE[1:])), SHAPE)
    for t, s in zip(times[:-1], times[1:], strict=True):
        scaled = x / (x.std(axis=(1, 2, 3), keepdims=True) + 1e-6)
        x = x + (s - t) * scaled * np.cos(3 * t)
    np.testing.assert_allclose(sample(flow, predict, times, KEY, SHAPE), x / 0.6, atol=1e-5)


def test_one_compilation_serves_all_times_of_one_nfe():
    flow, traces = RectifiedFlow(0.6), []

    @jax.jit
    def run(times):
        traces.append(len(times))
        return sample(flow, lambda x, t: x, times, KEY, SHAPE)

    run(reversed_log(3))
    run(uniform_spacing(3))
    run(reversed_log(2))
    assert traces == [4, 3]


def test_ancestral_sampling_with_the_true_noise_arrives_at_the_image():
    ddpm = DDPM()

    def predict(x, t):
        abar = ddpm.alpha_bar(t)[:, None, None, None]
        return (x - jnp.sqrt(abar) * X0) / jnp.sqrt(1 - abar)

    images = sample(ddpm, predict, uniform_spacing(50), KEY, SHAPE)
    np.testing.assert_allclose(images, X0, atol=1e-4)


def test_ancestral_sampling_is_random_and_seeded():
    ddpm, times = DDPM(), uniform_spacing(10)

    def run(seed: int):
        return sample(ddpm, lambda x, t: 0.1 * x, times, jax.random.key(seed), SHAPE)

    np.testing.assert_array_equal(run(0), run(0))
    assert float(jnp.max(jnp.abs(run(0) - run(1)))) > 0.1


def test_images_of_a_batch_share_their_noise():
    images = sample(RectifiedFlow(), lambda x, t: 0 * x, reversed_log(1), KEY, SHAPE)
    np.testing.assert_array_equal(images[0], images[1])
