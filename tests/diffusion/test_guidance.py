"""Classifier-free guidance on a prediction whose parts are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from epsilon_vae.diffusion.guidance import Guidance

LABELS = jnp.array([2, 5, 7])
NONE = 10
X = jax.random.normal(jax.random.key(0), (3, 4, 4, 2))
T = jnp.array([0.1, 0.5, 0.9])


def network(x, t, labels):
    """Two channels of noise and two of a variance, which tell x, t and the label."""
    label = labels[:, None, None, None] * jnp.ones_like(x)
    return jnp.concatenate([x * label + t[:, None, None, None], -label], axis=-1)


def expected(scales):
    cond, uncond = network(X, T, LABELS), network(X, T, jnp.full_like(LABELS, NONE))
    scales = np.array(scales)[:, None, None, None]
    noise = uncond[..., :2] + scales * (cond - uncond)[..., :2]
    return np.concatenate([noise, cond[..., 2:]], axis=-1)


@pytest.mark.parametrize(
    ("guidance", "scales"),
    [
        (Guidance(), (1, 1, 1)),
        (Guidance(4.0), (4, 4, 4)),
        (Guidance(0.0), (0, 0, 0)),
        (Guidance(1.5, (0.2, 0.5)), (1, 1.5, 1)),
        (Guidance(1.5, (0.2, 0.4)), (1, 1, 1)),
    ],
)
def test_all_channels_of_the_noise_within_the_interval(guidance, scales):
    """A learned variance is the conditional one."""
    predict = jax.jit(guidance.guide(network, LABELS, NONE))
    np.testing.assert_allclose(predict(X, T), expected(scales), rtol=1e-5)


@pytest.mark.parametrize(
    ("guidance", "batches"),
    [
        (Guidance(), [3, 3, 3]),
        (Guidance(4.0), [6, 6, 6]),
        (Guidance(4.0, (0.2, 0.6)), [3, 6, 3]),
    ],
)
def test_evaluates_twice_only_where_it_guides(guidance, batches):
    seen = []

    def counted(x, t, labels):
        jax.debug.callback(lambda: seen.append(len(x)))
        return network(x, t, labels)

    predict = jax.jit(guidance.guide(counted, LABELS, NONE))
    for t in T:
        predict(X, jnp.broadcast_to(t, (3,)))
        jax.effects_barrier()
    assert seen == batches
