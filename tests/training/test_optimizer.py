"""Warm-up, constant rate, clipping."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from epsilon_vae.training.optimizer import adam, learning_rate


def test_rate_rises_linearly_and_stays():
    schedule = learning_rate(1e-3, 10)
    rates = [float(schedule(step)) for step in (0, 4, 9, 10, 1000)]
    np.testing.assert_allclose(rates, [1e-4, 5e-4, 1e-3, 1e-3, 1e-3], rtol=1e-5)


@pytest.mark.parametrize("warmup_steps", [0, 1])
def test_without_warmup_the_rate_is_constant(warmup_steps):
    assert float(learning_rate(1e-3, warmup_steps)(0)) == pytest.approx(1e-3)


def test_adam_without_momentum_is_the_formula():
    """Adam(0, 0.999): g / (sqrt(v / (1 - 0.999^k)) + 1e-8), from the second step on."""
    params, gradients = jnp.array([1.0, -2.0]), [jnp.array([0.3, 0.1]), jnp.array([-0.1, 0.2])]
    optimizer = adam(0.1, 0, b1=0.0, b2=0.999)
    opt_state, expected, v = optimizer.init(params), np.array([1.0, -2.0]), np.zeros(2)
    for k, g in enumerate(gradients, start=1):
        updates, opt_state = optimizer.update(g, opt_state, params)
        params = optax.apply_updates(params, updates)
        v = 0.999 * v + 0.001 * np.asarray(g) ** 2
        expected = expected - 0.1 * np.asarray(g) / (np.sqrt(v / (1 - 0.999**k)) + 1e-8)
    np.testing.assert_allclose(params, expected, rtol=1e-4)


def test_clipping_bounds_the_norm_that_adam_sees():
    gradient = jnp.array([30.0, 40.0])
    optimizer = adam(0.1, 0, b1=0.0, b2=0.999, clip_norm=1.0)
    _, opt_state = optimizer.update(gradient, optimizer.init(gradient), gradient)
    second_moment = opt_state[0].nu
    np.testing.assert_allclose(jnp.sqrt(jnp.sum(second_moment) / 0.001), 1.0, rtol=1e-4)


def test_a_run_may_resume_with_clipping():
    """The state has one structure with and without it."""
    gradient = jnp.array([30.0, 40.0])
    states = [
        adam(0.1, 10, b1=0.0, b2=0.999, clip_norm=clip_norm).init(gradient)
        for clip_norm in (0.0, 1.0)
    ]
    assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])
