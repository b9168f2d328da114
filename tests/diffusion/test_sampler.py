"""The sampler against processes whose answer is known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from epsilon_vae.diffusion.path import DDPM, RectifiedFlow
from epsilon_vae.diffusion.sampler import image_keys, sample
from epsilon_vae.diffusion.time import respaced, reversed_log, uniform_spacing
from tests.helpers import QUICK_COMPILE

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
    images = sample(flow, oracle_velocity(flow), times=reversed_log(nfe), key=KEY, shape=SHAPE)
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
    np.testing.assert_allclose(
        sample(flow, predict, times=times, key=KEY, shape=SHAPE), x / 0.6, atol=1e-5
    )


def test_one_compilation_serves_all_times_of_one_nfe():
    flow, traces = RectifiedFlow(0.6), []

    @jax.jit
    def run(times):
        traces.append(len(times))
        return sample(flow, lambda x, t: x, times=times, key=KEY, shape=SHAPE)

    run(reversed_log(3))
    run(uniform_spacing(3))
    run(reversed_log(2))
    assert traces == [4, 3]


def test_ancestral_sampling_with_the_true_noise_arrives_at_the_image():
    ddpm = DDPM()

    def predict(x, t):
        abar = ddpm.alpha_bar(t)[:, None, None, None]
        return (x - jnp.sqrt(abar) * X0) / jnp.sqrt(1 - abar)

    images = sample(ddpm, predict, times=uniform_spacing(50), key=KEY, shape=SHAPE)
    np.testing.assert_allclose(images, X0, atol=1e-4)


def test_ancestral_sampling_is_random_and_seeded():
    ddpm, times = DDPM(), uniform_spacing(10)

    def run(seed: int):
        return sample(
            ddpm, lambda x, t: 0.1 * x, times=times, key=jax.random.key(seed), shape=SHAPE
        )

    np.testing.assert_array_equal(run(0), run(0))
    assert float(jnp.max(jnp.abs(run(0) - run(1)))) > 0.1


def test_images_of_a_batch_share_their_noise():
    images = sample(
        RectifiedFlow(0.6), lambda x, t: 0 * x, times=reversed_log(1), key=KEY, shape=SHAPE
    )
    np.testing.assert_array_equal(images[0], images[1])


def test_images_with_keys_of_their_own_are_the_same_in_any_batch():
    """Noise to begin with and of each step."""

    def run(seed: int, *indices: int):
        keys = image_keys(seed, jnp.array(indices))
        shape = (len(indices), 4, 4, 2)

        # Not optimized: vector instructions leave the last digit to the batch's size.
        @functools.partial(jax.jit, compiler_options=QUICK_COMPILE)
        def generate(keys):
            return sample(
                DDPM(), lambda x, t: jnp.tanh(x), times=respaced(5), key=keys, shape=shape
            )

        return generate(keys)

    images = run(0, 7, 3, 11)
    np.testing.assert_array_equal(run(0, 3), images[1:2])
    np.testing.assert_array_equal(run(0, 11, 7), images[2::-2])
    assert np.abs(images[0] - images[1]).max() > 0.1
    assert np.abs(run(1, 3) - images[1:2]).max() > 0.1


def spaced_steps(num_steps: int, count: int) -> list[int]:
    """The steps, counted from 0, that improved-diffusion takes: their distances add up."""
    stride, at, steps = (num_steps - 1) / (count - 1), 0.0, []
    for _ in range(count):
        steps.append(round(at))
        at += stride
    return steps


@pytest.mark.parametrize("nfe", [2, 50, 250, 1000])
def test_respaced_times_are_improved_diffusions(nfe):
    steps = [*reversed(spaced_steps(1000, nfe))]
    times = respaced(nfe)
    np.testing.assert_array_equal(np.round(times[:-1] * 1000) - 1, steps)
    told = DDPM().network_time(jnp.asarray(times[:-1]))
    np.testing.assert_allclose(1000 * told, steps, atol=1e-3)


@pytest.mark.parametrize("variance", ["small", "large", "learned"])
def test_respaced_ancestral_sampling_is_nichol_and_dhariwals(variance):
    """Their formulas in float64: a new schedule of the betas between the steps that are kept."""
    process = DDPM(is_clipped=False, variance=variance)
    keys = image_keys(3, jnp.arange(2))

    def noise(i: int) -> np.ndarray:
        draws = [jax.random.normal(jax.random.fold_in(key, i), (4, 4, 2)) for key in keys]
        return np.asarray(draws, np.float64)

    def predict(x, t, np=jnp):
        t = t[:, None, None, None]
        noise = 0.8 * x + 0.1 * np.sin(x + 5 * t)
        v = np.cos(3 * x)
        return np.concatenate([noise, v], axis=-1) if variance == "learned" else noise

    steps = spaced_steps(1000, 20)
    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[steps]
    previous = np.append(1.0, abar[:-1])
    betas = 1 - abar / previous
    posterior = betas * (1 - previous) / (1 - abar)
    x = noise(0)
    for i in reversed(range(20)):
        prediction = predict(x, np.full(2, (steps[i] + 1) / 1000), np)
        x0 = (x - np.sqrt(1 - abar[i]) * prediction[..., :2]) / np.sqrt(abar[i])
        mean = betas[i] * np.sqrt(previous[i]) / (1 - abar[i]) * x0
        mean += (1 - previous[i]) * np.sqrt(1 - betas[i]) / (1 - abar[i]) * x
        if i == 0:
            x = mean
            break
        log_variance = {"small": np.log(posterior[i]), "large": np.log(betas[i])}
        share = (prediction[..., 2:] + 1) / 2
        log_variance["learned"] = share * log_variance["large"]
        log_variance["learned"] = log_variance["learned"] + (1 - share) * log_variance["small"]
        x = mean + np.exp(log_variance[variance] / 2) * noise(20 - i)
    images = sample(process, predict, times=respaced(20), key=keys, shape=(2, 4, 4, 2))
    np.testing.assert_allclose(images, x, atol=1e-4 * np.abs(x).max())


@pytest.mark.parametrize(
    ("process", "times"),
    [
        (DDPM(is_clipped=False), respaced(250)),
        (DDPM(is_clipped=False, variance="large"), respaced(250)),
        (RectifiedFlow(1.0, "none"), uniform_spacing(100)),
    ],
    ids=["ddpm_small", "ddpm_large", "rectified_flow"],
)
def test_exact_denoiser_of_a_gaussian_gives_that_gaussian(process, times):
    """Of 16,384 values: E[x0 | x_t] and E[noise | x_t] in closed form."""
    mean, std = 0.3, 0.7

    def predict(x, t):
        ones = jnp.ones_like(x)
        data, noise = (process.perturb(a, b, t) for a, b in ((ones, 0 * ones), (0 * ones, ones)))
        deviation = (x - data * mean) / ((data * std) ** 2 + noise**2)
        return process.target(mean + data * std**2 * deviation, noise * deviation)

    shape = (64, 8, 8, 4)
    images = sample(process, predict, times=times, key=image_keys(0, jnp.arange(64)), shape=shape)
    assert float(jnp.mean(images)) == pytest.approx(mean, abs=0.02)
    assert float(jnp.std(images)) == pytest.approx(std, rel=0.03)
