"""Latent diffusion's objective: what it is drawn with, its value, and that it can be learned."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from epsilon_vae.diffusion.path import DDPM, RectifiedFlow
from epsilon_vae.diffusion.time import logit_normal, whole_steps
from epsilon_vae.models.dit import ClassDiT, DiT
from epsilon_vae.models.latent_diffusion import LatentDiffusion
from epsilon_vae.training.latent_diffusion import LatentDiffusionObjective
from tests import golden_params

SHAPE = (8, 4, 4, 2)
LABELS = np.arange(8) % 3
LATENTS = jax.random.normal(jax.random.key(0), SHAPE)


def ddpm(out_channels: int = 2) -> LatentDiffusionObjective:
    dit = DiT(depth=1, width=16, heads=2, patch=2, out_channels=out_channels)
    process = DDPM(is_clipped=False)
    return LatentDiffusionObjective(
        model=LatentDiffusion(ClassDiT(dit, num_classes=3), process),
        shape=SHAPE[1:],
        sample_time=whole_steps,
        label_dropout=0.1,
    )


def flow() -> LatentDiffusionObjective:
    model = LatentDiffusion(ddpm().model.network, RectifiedFlow(1.0, "none"))
    return LatentDiffusionObjective(
        model=model, shape=SHAPE[1:], sample_time=logit_normal, label_dropout=0.1
    )


def loss_of(objective: LatentDiffusionObjective, params: dict, draw: dict):
    return objective.loss(
        params, {}, frozen={}, batch={"latents": LATENTS, "label": LABELS}, draw=draw, step=0
    )


def test_draw_is_of_the_place_in_the_batch_alone():
    draw = ddpm().draw(jax.random.key(1), 2000)
    few = ddpm().draw(jax.random.key(1), 4)
    for name, value in few.items():
        np.testing.assert_array_equal(value, draw[name][:4])
    assert float(jnp.mean(draw["is_dropped"])) == pytest.approx(0.1, abs=0.02)
    assert float(jnp.std(draw["noise"])) == pytest.approx(1, abs=0.05)
    assert len(np.unique(draw["t"])) > 800 and draw["t"].min() >= 1e-3 and draw["t"].max() <= 1


def test_loss_is_of_the_noise_alone_and_a_dropped_label_is_none():
    """DiT counts the steps from 0; a learned variance takes no part."""
    objective = ddpm(out_channels=4)
    network = objective.model.network
    inputs = {"x": LATENTS, "t": jnp.zeros(8), "labels": LABELS}
    params = golden_params.random_params(network, inputs)
    draw = objective.draw(jax.random.key(1), len(LATENTS))
    draw |= {"t": jnp.arange(1, 9) / 10, "is_dropped": jnp.arange(8) == 2}
    loss, (_, metrics) = jax.jit(lambda p: loss_of(objective, p, draw))({"generator": params})

    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[99:800:100, None, None, None]
    x_t = np.sqrt(abar) * LATENTS + np.sqrt(1 - abar) * draw["noise"]
    labels = np.where(np.arange(8) == 2, 3, LABELS)
    told = np.arange(99, 800, 100) / np.float32(1000)
    prediction = jax.jit(network.apply)({"params": params}, x_t, told, labels)
    expected = np.mean((prediction[..., :2] - draw["noise"]) ** 2)
    assert float(loss) == pytest.approx(float(expected), rel=1e-4)
    assert metrics == {"loss/flow": loss}


@pytest.mark.parametrize("make", [ddpm, flow])
def test_loss_falls(make):
    """On one batch and one draw; it starts where a prediction of 0 is."""
    objective = make()
    process = objective.model.process
    params, _ = jax.jit(objective.init)(jax.random.key(0))
    optimizer = optax.adam(1e-2)
    draw = objective.draw(jax.random.key(1), len(LATENTS))

    @jax.jit
    def step(params, moments):
        loss = jax.value_and_grad(lambda params: loss_of(objective, params, draw)[0])
        value, grads = loss(params)
        updates, moments = optimizer.update(grads, moments)
        return optax.apply_updates(params, updates), moments, value

    moments, history = optimizer.init(params), []
    for _ in range(30):
        params, moments, value = step(params, moments)
        history.append(float(value))
    start = np.mean(np.square(process.target(LATENTS, draw["noise"])))
    assert history[0] == pytest.approx(float(start), rel=1e-5)
    assert history[-1] < 0.8 * history[0]
