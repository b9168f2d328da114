"""GAN losses and matchings against their formulas."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from epsilon_vae.diffusion.path import RectifiedFlow
from epsilon_vae.losses import adversarial
from epsilon_vae.losses.adversarial import Denoising, TrajectoryGAN

FLOW = RectifiedFlow(0.6)
make_gan = functools.partial(TrajectoryGAN, weight=0.5, r1_weight=1.0)
KEYS = jax.random.split(jax.random.key(0), 3)
X0, NOISE, PREDICTION = (jax.random.normal(key, (2, 8, 8, 3)) for key in KEYS)
T = jnp.array([0.3, 0.9])
X_T = FLOW.perturb(X0, NOISE, T)
DENOISING = Denoising(
    x0=X0,
    noise=NOISE,
    t=T,
    x_t=X_T,
    prediction=PREDICTION,
    x0_hat=FLOW.predict_x0(X_T, PREDICTION, T),
    step_fraction=jnp.array([0.5, 1.0]),
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
        adversarial.generator_loss(None, fake), -np.mean(np.log(sigmoid[2:])), rtol=1e-5
    )


def test_relativistic_losses_compare_pairs():
    """Of each pair, one network's loss at the difference is the other's at minus it."""
    real, fake = jnp.array([2.0, -1.0]), jnp.array([0.5, -3.0])
    sigmoid = 1 / (1 + np.exp(-np.array([1.5, 2.0])))
    np.testing.assert_allclose(
        adversarial.discriminator_loss(real, fake, "relativistic"),
        -np.mean(np.log(sigmoid)),
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        adversarial.generator_loss(real, fake, "relativistic"),
        -np.mean(np.log(1 - sigmoid)),
        rtol=1e-5,
    )


def test_trajectory_sees_image_and_noisy_image():
    match = adversarial.match_trajectory(FLOW, DENOISING)
    np.testing.assert_array_equal(match.real, X0)
    np.testing.assert_array_equal(match.fake, DENOISING.x0_hat)
    np.testing.assert_array_equal(match.context, X_T)
    np.testing.assert_array_equal(match.t, T)


def test_standard_sees_neither_noisy_image_nor_time():
    match = adversarial.match_standard(FLOW, DENOISING)
    assert match.context.shape[-1] == 0 and not np.any(match.t)


def test_step_compares_a_smaller_time_on_both_paths():
    match = adversarial.match_step(FLOW, DENOISING)
    s = T * jnp.array([0.5, 0.0])
    np.testing.assert_allclose(match.real, FLOW.perturb(X0, NOISE, s), atol=1e-6)
    # Eq. 5 applied to the estimate, with the true noise: not a move along the velocity.
    np.testing.assert_allclose(match.fake, FLOW.perturb(DENOISING.x0_hat, NOISE, s), atol=1e-6)
    # The whole way back, dt = t, is the one-step estimate, at the path's scale.
    np.testing.assert_allclose(match.fake[1], 0.6 * DENOISING.x0_hat[1], atol=1e-5)


def test_r1_of_a_linear_discriminator_is_known():
    """D(x) = <w, x> on 2 × 3 equal patches: the gradient is w, times the number of patches."""
    w = jax.random.normal(jax.random.key(5), X0.shape[1:])

    def discriminate(x):
        logit = jnp.sum(w * x, axis=(1, 2, 3))
        return jnp.broadcast_to(logit[:, None, None, None], (2, 2, 3, 1))

    np.testing.assert_allclose(
        adversarial.r1_penalty(discriminate, X0), 0.5 * 6 * jnp.sum(w**2), rtol=1e-5
    )


@pytest.mark.parametrize("resolution", [32, 64, 128])
def test_r1_of_constant_gradients_is_of_one_size_at_all_resolutions(resolution):
    """Each patch of 8 × 8 pixels has a logit that is linear in it, with the same kernel."""
    kernel = jax.random.normal(jax.random.key(5), (8, 8, 3, 1))
    images = jax.random.normal(jax.random.key(6), (2, resolution, resolution, 3))

    def discriminate(x):
        return jax.lax.conv_general_dilated(
            x, kernel, (8, 8), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    penalty = adversarial.r1_penalty(discriminate, images)
    np.testing.assert_allclose(penalty, 0.5 * np.sum(kernel**2), rtol=1e-4)


@pytest.mark.parametrize(
    ("start_step", "ramp_steps", "step", "expected"),
    [(0, 0, 0, 1), (10, 0, 9, 0), (10, 0, 10, 1), (10, 4, 10, 0.25), (10, 4, 20, 1)],
)
def test_ramp(start_step, ramp_steps, step, expected):
    gan = make_gan(discriminator=None, weight=2.0, start_step=start_step, ramp_steps=ramp_steps)
    assert float(gan.generator_weight(jnp.asarray(step))) == 2 * expected


class Linear(nn.Module):
    """Logits of 2 × 2 patches: a scale times the mean of a patch's channels, plus t."""

    @nn.compact
    def __call__(self, x, t):
        scale = self.param("scale", nn.initializers.constant(3.0), ())
        patches = x.reshape(len(x), 2, 4, 2, 4, -1).mean(axis=(2, 4, 5))
        return (scale * patches + t[:, None, None])[..., None]


def test_discriminators_loss_starts_at_its_own_step_without_a_ramp():
    gan = make_gan(
        discriminator=Linear(), start_step=50, ramp_steps=50, discriminator_start_step=10
    )
    params = gan.init(jax.random.key(0), 8)

    def losses(step):
        loss, metrics = gan.discriminator_loss(
            params, FLOW, denoising=DENOISING, step=jnp.asarray(step)
        )
        return float(loss), float(metrics["loss/disc"] + metrics["loss/r1"])

    assert losses(9)[0] == 0 < losses(9)[1]
    assert losses(10)[0] == pytest.approx(losses(10)[1], rel=1e-6)


def test_r1_comes_every_so_many_steps_and_weighs_as_many():
    params = make_gan(discriminator=Linear()).init(jax.random.key(0), 8)

    def r1(every_steps, step):
        gan = make_gan(discriminator=Linear(), r1_every_steps=every_steps)
        metrics = gan.discriminator_loss(params, FLOW, denoising=DENOISING, step=jnp.asarray(step))[
            1
        ]
        return float(metrics["loss/r1"])

    assert r1(1, 16) == r1(1, 17) > 0
    assert r1(16, 16) == pytest.approx(16 * r1(1, 16)) and r1(16, 17) == 0


def test_context_scale_multiplies_the_context_alone():
    whole, none = (make_gan(discriminator=Linear(), context_scale=scale) for scale in (1.0, 0.0))
    params = whole.init(jax.random.key(0), 8)
    match = adversarial.match_trajectory(FLOW, DENOISING)
    without = match._replace(context=jnp.zeros_like(X_T))
    expected = whole.logits(params, X0, without)
    np.testing.assert_array_equal(none.logits(params, X0, match), expected)
    assert np.max(np.abs(whole.logits(params, X0, match) - expected)) > 0.01


def test_generators_relativistic_loss_is_of_the_discriminators_pairs():
    """Its gradient goes to the fake image alone, and pushes its logits up."""
    gan = make_gan(discriminator=Linear(), gan="relativistic", r1_weight=0.0)
    params = gan.init(jax.random.key(0), 8)

    def loss(x0, x0_hat):
        return gan.generator_loss(params, FLOW, DENOISING._replace(x0=x0, x0_hat=x0_hat))[0]

    to_real, to_fake = jax.grad(loss, (0, 1))(X0, DENOISING.x0_hat)
    assert not np.any(to_real) and np.all(np.asarray(to_fake) < 0)
    match = adversarial.match_trajectory(FLOW, DENOISING)
    gap = gan.logits(params, match.real, match) - gan.logits(params, match.fake, match)
    expected = np.mean(np.log1p(np.exp(gap)))
    np.testing.assert_allclose(loss(X0, DENOISING.x0_hat), expected, rtol=1e-5)


def test_paired_accuracy_is_of_the_pairs_in_each_bin_of_t():
    """Six images of two patches; the last bin is empty, and has the accuracy of all."""
    ranked = np.array([[1, 1], [1, 0], [0, 0], [1, 1], [1, 0], [1, 0]])
    t = jnp.array([0.0, 0.1, 0.3, 0.4, 0.5, 0.6])
    real = jnp.asarray(2.0 * ranked - 1)[..., None, None]
    parts = [
        adversarial.pair_counts(real[i], jnp.zeros_like(real[i]), t[i])
        for i in (slice(0, 3), slice(3, 6), slice(0, 6))
    ]
    averaged = jax.tree.map(lambda a, b: (a + b) / 2, *parts[:2])
    for counts in (parts[2], averaged):  # of the batch, and of its halves
        found = adversarial.paired_accuracy(counts | {"loss/flow": jnp.zeros(())})
        expected = {"disc_t0": 3 / 6, "disc_t1": 4 / 6, "disc_t2": 7 / 12}
        for name, value in expected.items():
            assert float(found[f"accuracy/{name}"]) == pytest.approx(value)
        assert [float(found[f"pairs/disc_t{i}"]) for i in range(3)] == pytest.approx([0.5, 0.5, 0])
        assert not any(name.startswith("ranked/") for name in found)


def test_ties_are_not_ranked_and_bins_end_at_thirds():
    logits = jnp.zeros((4, 1, 1, 1))
    t = jnp.array([0.33, 0.34, 0.67, 1.0])
    found = adversarial.paired_accuracy(adversarial.pair_counts(logits, logits, t))
    assert [float(found[f"pairs/disc_t{i}"]) for i in range(3)] == [0.25, 0.25, 0.5]
    assert [float(found[f"accuracy/disc_t{i}"]) for i in range(3)] == [0, 0, 0]
