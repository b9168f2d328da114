"""Training times and sampling schedules: t in [0, 1], 0 = data, 1 = noise."""

import jax
import jax.numpy as jnp
import numpy as np

from epsilon_vae.keys import DDPM_STEPS

START_SHARE = 0.05


def logit_normal(key: jax.Array, shape: tuple[int, ...] = ()) -> jax.Array:
    """`t = sigmoid(n)`, n ~ N(0, 1) (Esser et al. 2024): the paper's training times."""
    return jax.nn.sigmoid(jax.random.normal(key, shape))


def logit_normal_start(key: jax.Array, shape: tuple[int, ...] = ()) -> jax.Array:
    """`logit_normal`, but for a twentieth of the times, which are 1, where decoding starts.

    Ours: one in 620 logit-normal times is above 0.95, so that a short training hardly sees any, and
    decoding in one step, which is at t = 1 alone, exaggerates contrast.
    """
    start_key, time_key = jax.random.split(key)
    is_start = jax.random.bernoulli(start_key, START_SHARE, shape)
    return jnp.where(is_start, 1.0, logit_normal(time_key, shape))


def uniform(key: jax.Array, shape: tuple[int, ...] = ()) -> jax.Array:
    """`t ~ U[0, 1)`: the ablation's training times."""
    return jax.random.uniform(key, shape)


def whole_steps(
    key: jax.Array, shape: tuple[int, ...] = (), num_steps: int = DDPM_STEPS
) -> jax.Array:
    """`t = k / num_steps`, k uniform in 1 … num_steps: DDPM's training times (Ho et al. 2020)."""
    return jax.random.randint(key, shape, 1, num_steps + 1) / num_steps


def reversed_log(nfe: int, m: float = 1.0, n: float = 100.0) -> np.ndarray:
    """The paper's Eq. 12: `rho(u) = (log m - log(u (m - n) + n)) / (log m - log n)` at u = i / nfe.

    Returns `[nfe + 1]` times falling from 1 to 0, densest near 1: 1, 0.9130, 0.7657, 0 for nfe = 3.
    """
    u = np.linspace(0.0, 1.0, nfe + 1)
    times = (np.log(m) - np.log(u * (m - n) + n)) / (np.log(m) - np.log(n))
    times[0], times[-1] = 1.0, 0.0
    return times.astype(np.float32)


def uniform_spacing(nfe: int) -> np.ndarray:
    """`[nfe + 1]` equidistant times from 1 to 0."""
    return np.linspace(1.0, 0.0, nfe + 1, dtype=np.float32)


def respaced(nfe: int, num_steps: int = DDPM_STEPS) -> np.ndarray:
    """`[nfe + 1]` times at evenly spaced whole steps of `num_steps`, from the last to the first.

    Then 0. As Nichol & Dhariwal 2021 (arXiv 2102.09672) and DiT take 250 of 1000 steps: the step
    before data is 1 / num_steps, however few there are, from 2 on.
    """
    steps = np.round(np.linspace(num_steps - 1, 0, nfe)) + 1
    return np.append(steps / num_steps, 0).astype(np.float32)


TIME_SAMPLINGS = {
    "logit_normal": logit_normal,
    "logit_normal_start": logit_normal_start,
    "uniform": uniform,
    "whole_steps": whole_steps,
}
SPACINGS = {"reversed_log": reversed_log, "uniform": uniform_spacing, "respaced": respaced}
