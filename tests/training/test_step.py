"""The train step: what moves what, what is random, what equals what."""

import dataclasses

import jax
import numpy as np
import pytest


def assert_trees_equal(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def trees_equal(a, b) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y) for x, y in pairs)


def run(training, steps: int = 1, step=None):
    state = training.state
    for _ in range(steps):
        state, metrics = (step or training.step)(state, training.frozen, training.images)
    return state, metrics


@pytest.fixture(scope="module")
def trained(training):
    """State and metrics after three steps: past the zero-initialised layers, all have moved."""
    return run(training, 3)


@pytest.fixture(scope="module")
def objective(training):
    return training.step.__wrapped__.objective


def test_step_is_a_function_of_its_arguments(training, trained):
    again, metrics = run(training, 3)
    assert_trees_equal(again, trained[0])
    assert metrics == trained[1]


def test_every_parameter_moves(training, trained):
    state = trained[0]
    for name in ("params", "ema", "discriminator"):
        before = jax.tree_util.tree_leaves_with_path(getattr(training.state, name))
        after = jax.tree.leaves(getattr(state, name))
        still = [
            jax.tree_util.keystr(path)
            for (path, x), y in zip(before, after, strict=True)
            if np.array_equal(x, y)
        ]
        assert not still


def test_each_step_draws_anew(training):
    later = training.state.replace(step=training.state.step + 1)
    first = training.step(training.state, training.frozen, training.images)[1]
    second = training.step(later, training.frozen, training.images)[1]
    assert float(first["loss/flow"]) != float(second["loss/flow"])


def test_draw_of_an_image_does_not_depend_on_the_batch(objective):
    key = jax.random.key(3)
    large, small = objective.draw(key, (8, 4, 4, 3)), objective.draw(key, (2, 4, 4, 3))
    assert_trees_equal(jax.tree.map(lambda x: x[:2], large), small)


def test_each_network_moves_by_its_own_loss_alone(training, trained, objective):
    """The autoencoder's gradient does not see the discriminator's loss, and the other way round."""
    state = trained[0]
    draw = objective.draw(jax.random.key(0), training.images.shape)
    arguments = (training.frozen, training.images, draw, state.step)

    def discriminator_loss(params, discriminator):
        _, (denoising, _) = objective.autoencoder_loss(params, discriminator, *arguments)
        return objective.discriminator_loss(discriminator, denoising, state.step)[0]

    grads = jax.jit(jax.grad(discriminator_loss, argnums=(0, 1)))(state.params, state.discriminator)
    assert all(np.all(np.asarray(g) == 0) for g in jax.tree.leaves(grads[0]))
    assert any(np.any(np.asarray(g) != 0) for g in jax.tree.leaves(grads[1]))


def test_update_of_each_network_ignores_the_other_losses_weights(training, trained, objective):
    """Without the GAN's term the autoencoder moves elsewhere, the discriminator just as before."""
    step = training.step.__wrapped__
    muted = dataclasses.replace(
        objective, adversary=dataclasses.replace(objective.adversary, weight=0.0)
    )
    without, _ = jax.jit(dataclasses.replace(step, objective=muted))(
        trained[0], training.frozen, training.images
    )
    with_gan, _ = training.step(trained[0], training.frozen, training.images)
    for x, y in zip(
        jax.tree.leaves(with_gan.discriminator), jax.tree.leaves(without.discriminator), strict=True
    ):
        np.testing.assert_allclose(x, y, atol=1e-6)
    assert not trees_equal(with_gan.params, without.params)
