"""Sampling: from noise at t = 1 to an image at t = 0, along given times."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from epsilon_vae.diffusion.path import Process


def sample(
    process: Process,
    predict: Callable[[jax.Array, jax.Array], jax.Array],
    *,
    times: jax.Array,
    key: jax.Array,
    shape: tuple[int, int, int, int],
) -> jax.Array:
    """Images `[B, H, W, C]` by `len(times) - 1` steps of the process (NFE).

    An image's result does not depend on what else is in its batch. With a single key, all images
    share the same noise, at the start and in each step; with one key per image, each has its own.

    Args:
      process: gives the step (Euler for rectified flow, ancestral for DDPM).
      predict: (normalised x `[B, H, W, C]`, t `[B]`) → the network's prediction.
      times: `[nfe + 1]`, falling from 1 to 0.
      key: random key of the noise, or keys `[B]`.
      shape: of the result.
    """
    draw = functools.partial(_draw, key, shape)
    return sample_from(process, predict, times=times, draw=draw, shape=shape)


def sample_from(
    process: Process,
    predict: Callable[[jax.Array, jax.Array], jax.Array],
    *,
    times: jax.Array,
    draw: Callable[[jax.Array], jax.Array],
    shape: tuple[int, int, int, int],
) -> jax.Array:
    """Images as `sample`'s, from standard normal noise that the caller gives.

    Args:
      process, predict, times, shape: as `sample`'s.
      draw: i → noise `[B, H, W, C]` or `[1, H, W, C]`: at 0 what all begins with, at i that of
        step i - 1.
    """
    start, step = _start_and_step(process, predict, times, draw, shape)
    x = jax.lax.fori_loop(0, len(times) - 1, lambda i, x: step(i, x)[0], start)
    return process.unscale(x)


def image_keys(seed: int | jax.Array, indices: jax.Array) -> jax.Array:
    """Keys `[B]` of generated images: image i of a seed is the same in whatever batch it is."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(seed), indices)


def trajectory(
    process: Process,
    predict: Callable[[jax.Array, jax.Array], jax.Array],
    *,
    times: jax.Array,
    key: jax.Array,
    shape: tuple[int, int, int, int],
) -> tuple[jax.Array, jax.Array]:
    """Samples as `sample` does, and keeps every step.

    Args:
      process, predict, times, key, shape: as `sample`'s.

    Returns:
      x_t at each of the times, `[nfe + 1, B, H, W, C]`, and the estimates of x0 at all of them but
      the last, `[nfe, B, H, W, C]`.
    """
    draw = functools.partial(_draw, key, shape)
    start, step = _start_and_step(process, predict, times, draw, shape)

    def keep(x: jax.Array, i: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        x, estimate = step(i, x)
        return x, (x, estimate)

    _, (states, estimates) = jax.lax.scan(keep, start, jnp.arange(len(times) - 1))
    return jnp.concatenate([start[None], states]), estimates


def _draw(key: jax.Array, shape: tuple[int, int, int, int], i: jax.Array) -> jax.Array:
    """Noise of step i - 1; at 0 what all begins with."""
    if key.ndim:
        fold = jax.vmap(jax.random.fold_in, in_axes=(0, None))
        return jax.vmap(lambda key: jax.random.normal(key, shape[1:]))(fold(key, i))
    return jax.random.normal(jax.random.fold_in(key, i), (1, *shape[1:]))


def _start_and_step(process, predict, times, draw, shape):
    """Noise, and the step from `times[i]` to the next, which also gives the estimate of x0."""
    times = jnp.asarray(times, jnp.float32)

    def step(i: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        t = jnp.broadcast_to(times[i], shape[:1])
        s = jnp.broadcast_to(times[i + 1], shape[:1])
        prediction = predict(process.network_input(x, t), t)
        estimate = process.predict_x0(x, prediction, t)
        return process.step_back(x, prediction, t=t, s=s, noise=draw(i + 1)), estimate

    return jnp.broadcast_to(draw(0), shape), step
