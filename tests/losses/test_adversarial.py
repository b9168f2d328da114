"""GAN losses and matchings against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from epsilon_vae.diffusion.path import RectifiedFlow
from epsilon_vae.losses import adversarial
from epsilon_vae.losses.adversarial import Denoising, TrajectoryGAN

FLOW = RectifiedFlow(0.6)
KEYS = jax.random.split(jax.random.key(0), 3)
X0, NOISE, PREDICTION = (jax.random.normal(key, (2, 8, 8, 3)) for key in KEYS)
T = jnp.array([0.3, 0.9])
X_T = FLOW.perturb(X0, NOISE, T)
DENOISING = Denoising(
    X0, NOISE, T, X_T, PREDICTION, FLOW.denoised(X_T, PREDICTION, T), jnp.array([0.5, 1.0])
)


def test_losses_are_non_saturating():
    real, fake = jnp.array([2.0, -1.0]), jnp.array([0.5, -3.0])
    sigmoid = 1 / (1 + np.exp(-np.array([2.0, -1.0, 0.5, -3.0])))
    np.testing.assert_allclose(
        adversarial.discriminator_loss(real, fake),
        -np.mean(np.log(sigmoid[:2])) - np.mean(np.log(1 - sigmoid[2:])),
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        adversarial.generator_loss(fake), -np.mean(np.log(sigmoid[2:])), rtol=1e-5
    )


def test_trajectory_sees_image_and_noisy_image():
    match = adversarial.match_trajectory(FLOW, DENOISING)
    np.testing.assert_array_equal(match.real, X0)
    np.testing.assert_array_equal(match.fake, DENOISING.denoised)
    np.testing.assert_array_equal(match.context, X_T)
    np.testing.assert_array_equal(match.t, T)


def test_standard_sees_neither_noisy_image_nor_time():
    match = adversarial.match_standard(FLOW, DENOISING)
    assert match.context.shape[-1] == 0 and not np.any(match.t)


def test_step_compares_a_smaller_time_on_both_paths():
    match = adversarial.match_step(FLOW, DENOISING)
    s = T * jnp.array([0.5, 0.0])
    np.testing.assert_allclose(match.real, FLOW.perturb(X0, NOISE, s), atol=1e-6)
    shift = (s - T)[:, None, None, None]
    np.testing.assert_allclose(match.fake, X_T + shift * PREDICTION, atol=1e-6)
    # The whole way back, dt = t, is the one-step estimate, at the path's scale.
    np.testing.assert_allclose(match.fake[1], 0.6 * DENOISING.denoised[1], atol=1e-5)


def test_r1_of_a_linear_discriminator_is_known():
    """D(x) = <w, x> on 2 × 3 equal patches: the gradient is w, its squared norm the sum."""
    w = jax.random.normal(jax.random.key(5), X0.shape[1:])

    def discriminate(x):
        logit = jnp.sum(w * x, axis=(1, 2, 3))
        return jnp.broadcast_to(logit[:, None, None, None], (2, 2, 3, 1))

    np.testing.assert_allclose(
        adversarial.r1_penalty(discriminate, X0), 0.5 * jnp.sum(w**2), rtol=1e-5
    )


@pytest.mark.parametrize(
    ("start_step", "ramp_steps", "step", "expected"),
    [(0, 0, 0, 1), (10, 0, 9, 0), (10, 0, 10, 1), (10, 4, 10, 0.25), (10, 4, 20, 1)],
)
def test_ramp(start_step, ramp_steps, step, expected):
    gan = TrajectoryGAN(None, start_step=start_step, ramp_steps=ramp_steps)
    assert float(gan._ramp(jnp.asarray(step))) == expected
