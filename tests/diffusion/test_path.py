"""Both processes against their equations, written out once more on their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from epsilon_vae.diffusion.path import DDPM, RectifiedFlow

KEYS = jax.random.split(jax.random.key(0), 3)
X0 = jax.random.uniform(KEYS[0], (5, 8, 8, 3), minval=-1, maxval=1)
NOISE = jax.random.normal(KEYS[1], (5, 8, 8, 3))
T = jnp.array([0.001, 0.2, 0.5, 0.9, 1.0])
PROCESSES = [RectifiedFlow(0.6), RectifiedFlow(1.0), DDPM()]


def test_flow_path_and_velocity():
    flow = RectifiedFlow(gamma=0.6)
    t = T[:, None, None, None]
    np.testing.assert_allclose(
        flow.perturb(X0, NOISE, T), (1 - t) * 0.6 * X0 + t * NOISE, rtol=1e-6
    )
    # The target is the path's derivative in t.
    _, derivative = jax.jvp(lambda t: flow.perturb(X0, NOISE, t), (T,), (jnp.ones_like(T),))
    np.testing.assert_allclose(flow.target(X0, NOISE), derivative, atol=1e-6)


def test_gamma_lowers_the_signal_to_noise_ratio():
    def ratio(gamma: float) -> float:
        flow = RectifiedFlow(gamma)
        signal = flow.perturb(X0, jnp.zeros_like(X0), T)
        noise = flow.perturb(jnp.zeros_like(X0), NOISE, T)
        return float(jnp.var(signal[1]) / jnp.var(noise[1]))

    assert ratio(0.6) == pytest.approx(0.36 * ratio(1.0), rel=1e-4)


@pytest.mark.parametrize("process", PROCESSES)
def test_true_prediction_gives_back_the_image(process):
    # From t = 0.9 on, DDPM divides by a vanishing sqrt(abar): float32 has no digits left.
    tolerance = 1e-5 if isinstance(process, RectifiedFlow) else 2e-3
    x_t = process.perturb(X0, NOISE, T)
    x0_hat = process.predict_x0(x_t, process.target(X0, NOISE), T)
    np.testing.assert_allclose(x0_hat, X0, atol=tolerance)


@pytest.mark.parametrize("gamma", [1.0, 0.6])
def test_a_step_of_rectified_flow_stays_on_the_path(gamma):
    process, s = RectifiedFlow(gamma), T / 2
    x_t, velocity = process.perturb(X0, NOISE, T), process.target(X0, NOISE)
    moved = process.step_back(x_t, velocity, t=T, s=s, noise=None)
    np.testing.assert_allclose(moved, process.perturb(X0, NOISE, s), atol=2e-3)


def test_network_input_has_unit_variance_for_each_image():
    x = RectifiedFlow(0.6).network_input(RectifiedFlow(0.6).perturb(X0, NOISE, T), T)
    np.testing.assert_allclose(jnp.std(x, axis=(1, 2, 3)), np.ones(5), atol=1e-4)


def test_analytic_normalization_is_near_the_measured_one_for_natural_contrast():
    flow = RectifiedFlow(0.6, "analytic")
    x0 = 0.5 * jax.random.normal(KEYS[2], X0.shape)
    x = flow.network_input(flow.perturb(x0, NOISE, T), T)
    np.testing.assert_allclose(jnp.std(x, axis=(1, 2, 3)), np.ones(5), atol=0.15)


def test_ddpm_schedule_is_ho_et_als():
    ddpm = DDPM()
    expected = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    steps = np.arange(1, 1001)
    np.testing.assert_allclose(ddpm.alpha_bar(jnp.asarray(steps / 1000)), expected, rtol=1e-5)
    assert float(ddpm.alpha_bar(jnp.zeros(()))) == 1.0


def test_ancestral_step_has_the_posterior_of_ho_et_al():
    """Mean and variance of Eq. 6 and 7, from betas, at neighbouring steps."""
    ddpm, k = DDPM(), 400
    betas = np.linspace(1e-4, 0.02, 1000)
    abar = np.cumprod(1 - betas)
    t, s = jnp.full((5,), k / 1000), jnp.full((5,), (k - 1) / 1000)
    x_t = ddpm.perturb(X0, NOISE, t)
    zero = jnp.zeros_like(X0)
    mean = ddpm.step_back(x_t, NOISE, t=t, s=s, noise=zero)
    beta, abar_t, abar_s = betas[k - 1], abar[k - 1], abar[k - 2]
    expected = (np.sqrt(abar_s) * beta * X0 + np.sqrt(1 - beta) * (1 - abar_s) * x_t) / (1 - abar_t)
    np.testing.assert_allclose(mean, expected, atol=1e-5)
    noise = ddpm.step_back(x_t, NOISE, t=t, s=s, noise=zero + 1) - mean
    np.testing.assert_allclose(
        noise, np.sqrt(beta * (1 - abar_s) / (1 - abar_t)) * np.ones_like(X0), rtol=1e-3
    )
