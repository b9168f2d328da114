"""The train step: what moves what, what is random, what equals what."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import tiny
from epsilon_vae.losses.adversarial import NoGAN
from epsilon_vae.models.build import ENCODERS
from epsilon_vae.models.encoder import LiteEncoder
from epsilon_vae.models.unet import UNET_SIZES
from epsilon_vae.parallel.mesh import make_mesh
from epsilon_vae.training import sharded
from epsilon_vae.training.build import build_objective, build_train_step, frozen_inputs
from epsilon_vae.training.flops import step_flops
from epsilon_vae.training.optimizer import adam
from tests.helpers import QUICK_COMPILE, make_training, state_shapes, training_images


def assert_trees_equal(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def trees_equal(a, b) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y) for x, y in pairs)


def run(training, steps: int = 1, step=None):
    state = training.state
    for _ in range(steps):
        state, metrics = (step or training.step)(state, training.frozen, training.batch)
    return state, metrics


@pytest.fixture(scope="module")
def trained(training):
    """State and metrics after three steps: past the zero-initialised layers, all have moved."""
    return run(training, 3)


def test_compiled_step_works_in_place_and_sees_each_image_once(small_config):
    """All of the state is donated; D's passes over real and fake images serve all that ask them."""
    mesh, step = make_mesh(devices=jax.devices()[:1]), build_train_step(small_config)
    with jax.set_mesh(mesh):
        state = sharded.state_shapes(step, mesh)
        batch = sharded.batch_shapes(step, small_config.batch_size, mesh)
        lowered = sharded.jit_step(step, state, mesh).lower(
            state, frozen_inputs(small_config), batch
        )
        compiled = lowered.compile(QUICK_COMPILE)
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    assert compiled.memory_analysis().alias_size_in_bytes == size
    forward = r' convolution\(.*op_name="jit\(step\)/(?:jvp\()+PatchDiscriminator\)+/conv0/'
    assert len(re.findall(forward, compiled.as_text())) == 2


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
    first = training.step(training.state, training.frozen, training.batch)[1]
    second = training.step(later, training.frozen, training.batch)[1]
    assert float(first["loss/flow"]) != float(second["loss/flow"])


def test_another_seed_draws_anew_and_compiles_nothing(training):
    _, first = training.step(training.state, training.frozen, training.batch)
    compiled = training.step._cache_size()
    other = training.frozen | {"seed": np.uint32(training.config.seed + 1)}
    _, second = training.step(training.state, other, training.batch)
    assert training.step._cache_size() == compiled
    assert float(first["loss/flow"]) != float(second["loss/flow"])


def test_draw_of_an_image_does_not_depend_on_the_batch(objective):
    key = jax.random.key(3)
    large, small = objective.draw(key, 8), objective.draw(key, 2)
    assert_trees_equal(jax.tree.map(lambda x: x[:2], large), small)


def test_each_network_moves_by_its_own_loss_alone(training, trained, objective):
    """The autoencoder's gradient does not see the discriminator's loss, and the other way round."""
    state = trained[0]
    draw = objective.draw(jax.random.key(0), training.config.batch_size)
    arguments = {
        "frozen": training.frozen,
        "batch": training.batch,
        "draw": draw,
        "step": state.step,
    }

    def discriminator_loss(params, discriminator):
        _, (denoising, _) = objective.loss(params, discriminator, **arguments)
        return objective.discriminator_loss(discriminator, denoising, state.step)[0]

    gradient = jax.jit(jax.grad(discriminator_loss, (0, 1)), compiler_options=QUICK_COMPILE)
    grads = gradient(state.params, state.discriminator)
    assert all(np.all(np.asarray(g) == 0) for g in jax.tree.leaves(grads[0]))
    assert any(np.any(np.asarray(g) != 0) for g in jax.tree.leaves(grads[1]))


def test_update_of_each_network_ignores_the_other_losses_weights(training, trained, objective):
    """Without the GAN's term the autoencoder moves elsewhere, the discriminator just as before."""
    step = training.step.__wrapped__
    muted = dataclasses.replace(
        objective, adversary=dataclasses.replace(objective.adversary, weight=0.0)
    )
    muted_step = jax.jit(dataclasses.replace(step, objective=muted), compiler_options=QUICK_COMPILE)
    without, _ = muted_step(trained[0], training.frozen, training.batch)
    with_gan, _ = training.step(trained[0], training.frozen, training.batch)
    for x, y in zip(
        jax.tree.leaves(with_gan.discriminator), jax.tree.leaves(without.discriminator), strict=True
    ):
        np.testing.assert_allclose(x, y, atol=1e-6)
    assert not trees_equal(with_gan.params, without.params)


def test_loss_is_the_weighted_sum_of_its_terms(training, trained, objective):
    state = trained[0]
    draw = objective.draw(jax.random.key(0), training.config.batch_size)
    loss, (denoising, metrics) = jax.jit(objective.loss)(
        state.params,
        state.discriminator,
        frozen=training.frozen,
        batch=training.batch,
        draw=draw,
        step=state.step,
    )
    terms = [metrics[f"loss/{name}"] for name in ("flow", "lpips", "adv")]
    np.testing.assert_allclose(loss, np.dot([1, 0.5, 0.5], terms), rtol=1e-6)
    images = training.batch["image"]
    lpips = jax.jit(objective.perceptual.distance)(
        training.frozen["lpips"], denoising.x0_hat, images
    )
    np.testing.assert_allclose(metrics["loss/lpips"], np.mean(lpips), rtol=1e-5)
    # Eq. 9: x_t is what the estimate was made of.
    t = draw["t"][:, None, None, None]
    expected = (denoising.x_t - t * denoising.prediction) / 0.6
    np.testing.assert_allclose(denoising.x0_hat, expected, atol=1e-5)


def test_a_bottlenecks_cost_is_part_of_the_loss(small_config):
    """Divided by the number of an image's values, as the loss's other terms are means."""
    small_config.model.bottleneck.name = "kl"
    small_config.model.bottleneck.kl_weight = 100.0
    small_config.loss.lpips_weight = small_config.loss.adv_weight = 0.0
    objective = build_objective(small_config)
    params, _ = jax.jit(objective.init, compiler_options=QUICK_COMPILE)(jax.random.key(0))
    batch, draw = {"image": training_images(4, 32)}, objective.draw(jax.random.key(1), 4)
    losses = jax.jit(objective.loss, compiler_options=QUICK_COMPILE)
    loss, (_, metrics) = losses(params, {}, frozen={}, batch=batch, draw=draw, step=0)
    cost = 100 * metrics["loss/kl"] / (32 * 32 * 3)
    assert cost > 0.1 * metrics["loss/flow"]
    np.testing.assert_allclose(loss, metrics["loss/flow"] + cost, rtol=1e-6)


def test_accumulation_equals_the_whole_batch(training):
    """Four parts of eight images each: the gradients' mean, and the same randomness."""
    batch = training._replace(batch={"image": training_images(32, training.config.data.resolution)})
    whole = training.step.__wrapped__
    in_parts = dataclasses.replace(whole, accumulate=4)
    # Without QUICK_COMPILE: 32 images would take longer to compute than to compile.
    state, metrics = run(batch, 1, jax.jit(whole))
    part_state, part_metrics = run(batch, 1, jax.jit(in_parts))
    for name in metrics:
        np.testing.assert_allclose(part_metrics[name], metrics[name], rtol=1e-5, atol=1e-7)
    # Adam's first step is lr * sign(g): compare what it saw, not where it went.
    moments, part_moments = (s.opt_state[0].nu for s in (state, part_state))
    for x, y in zip(jax.tree.leaves(part_moments), jax.tree.leaves(moments), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5 * float(jnp.max(y)) + 1e-16)


def test_remat_changes_neither_parameters_nor_gradients(small_config, monkeypatch):
    """With residual blocks in both networks."""
    encoder = functools.partial(LiteEncoder, channels=16, blocks=1, groups=8)
    monkeypatch.setitem(ENCODERS, "micro", (encoder, {4: (1, 1, 1)}))
    monkeypatch.setitem(UNET_SIZES["micro"], "blocks", 1)
    small_config.loss.lpips_weight = 0.0
    whole = make_training(small_config)
    for remat in ("convs", "full"):
        small_config.model.remat = remat
        other = make_training(small_config)
        assert jax.tree.structure(other.state) == jax.tree.structure(whole.state)
        assert_trees_equal(other.state, whole.state)
        jaxpr = str(jax.make_jaxpr(other.step.__wrapped__)(other.state, other.frozen, other.batch))
        assert jaxpr.count("remat") == 10  # every block: 4 of the encoder, 6 of the decoder
    _, metrics = run(whole)
    _, again = run(other)
    for name in metrics:
        np.testing.assert_allclose(again[name], metrics[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("step", "decay"), [(0, 0.1), (8, 0.5), (1000, None)])
def test_ema_follows_with_its_decay_and_faster_at_first(training, step, decay):
    start = training.state.replace(step=jnp.asarray(step, jnp.int32))
    state, _ = training.step(start, training.frozen, training.batch)
    decay = decay or training.config.optim.ema_decay
    expected = jax.tree.map(
        lambda old, new: decay * old + (1 - decay) * new, training.state.ema, state.params
    )
    for x, y in zip(jax.tree.leaves(state.ema), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-8)


def test_gradients_at_x0_hat_are_the_weighted_terms(training, trained, objective):
    """Each by a derivative of its own: of the loss by x0_hat, with all else held still."""
    state, metrics = trained[0], {}
    key = jax.random.fold_in(jax.random.key(training.config.seed), state.step)
    draw = objective.draw(key, training.config.batch_size)
    _, metrics = training.step(state, training.frozen, training.batch)
    rest = {
        "frozen": training.frozen,
        "batch": training.batch,
        "draw": draw,
        "step": state.step,
    }
    _, (denoising, _) = jax.jit(objective.loss, compiler_options=QUICK_COMPILE)(
        state.params, state.discriminator, **rest
    )

    def term(name):
        def loss(x0_hat):
            t = draw["t"][:, None, None, None]
            if name == "flow":  # the velocity whose estimate is x0_hat (Eq. 9)
                velocity = (denoising.x_t - 0.6 * x0_hat) / t
                return jnp.mean((velocity - (draw["noise"] - 0.6 * denoising.x0)) ** 2)
            if name == "lpips":
                distance = objective.perceptual.distance(
                    training.frozen["lpips"], x0_hat, denoising.x0
                )
                return 0.5 * jnp.mean(distance)
            changed = denoising._replace(x0_hat=x0_hat)
            adversary, process = objective.adversary, objective.process
            weight = adversary.generator_weight(state.step)
            return weight * adversary.generator_loss(state.discriminator, process, changed)[0]

        return jax.jit(jax.grad(loss), compiler_options=QUICK_COMPILE)(denoising.x0_hat)

    size = training.config.batch_size
    for name in ("flow", "lpips", "adv"):
        norms = np.sqrt(np.sum((size * np.asarray(term(name))) ** 2, axis=(1, 2, 3)))
        found = float(metrics[f"grad_x0/{name}"])
        assert found > 0 and found == pytest.approx(np.mean(norms), rel=1e-3), name


def test_discriminator_is_told_apart_by_logits_and_accuracy(training, trained):
    """Its metrics are those of its own logits, on the forward pass of the step."""
    metrics = {name: float(value) for name, value in trained[1].items()}
    assert sum(metrics[f"pairs/disc_t{i}"] for i in range(3)) == pytest.approx(1)
    assert all(0 <= metrics[f"accuracy/disc_t{i}"] <= 1 for i in range(3))
    assert metrics["logits/real"] != metrics["logits/fake"]


def test_discriminator_has_an_optimizer_of_its_own(small_config):
    """Rate, moments' decays and warm-up are not those of the networks."""
    changes = {"lr": 3e-3, "b1": 0.5, "b2": 0.75, "warmup_steps": 2}
    small_config.optim.update({f"discriminator_{name}": x for name, x in changes.items()})
    step = build_train_step(small_config)
    params, grads = {"w": jnp.zeros(2)}, {"w": jnp.array([1.0, -2.0])}
    expected = adam(**changes)
    for optimizer, is_equal in ((step.discriminator_optimizer, True), (step.optimizer, False)):
        states = [optimizer.init(params), expected.init(params)]
        for gradient in (grads, {"w": jnp.array([0.5, 3.0])}):
            updates = []
            for i, transform in enumerate((optimizer, expected)):
                update, states[i] = transform.update(gradient, states[i], params)
                updates.append(update["w"])
        assert np.allclose(*updates, rtol=1e-6, atol=0) == is_equal


def test_parameters_and_statistics_stay_float32(trained):
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(trained[0])}
    assert dtypes == {jnp.dtype("float32"), jnp.dtype("int32")}


def test_frozen_encoder_costs_neither_backward_pass_nor_moments(training):
    """Of `tiny`, whose encoder is a good part of a step; nothing is compiled."""
    config = tiny.get_config()
    config.loss.gan = "non_saturating"  # a relativistic one has a pass more, and so a dearer step
    step, params = build_train_step(config), state_shapes(config).params
    objective = dataclasses.replace(step.objective, encoder_frozen=True)
    frozen = dataclasses.replace(step, objective=objective)
    batch_size = config.batch_size
    whole, less = (step_flops(s, training.frozen, batch_size) for s in (step, frozen))
    images = objective.batch_shapes(batch_size)["image"]

    def encode(params, images):
        return jnp.sum(objective.networks.encode(params, images))

    forward, both = (
        jax.jit(f).lower(params, images).cost_analysis()["flops"]
        for f in (encode, jax.grad(encode))
    )
    assert whole - less >= both - forward > 0.1 * whole

    moments = jax.eval_shape(step.optimizer.init, objective.trained(params))[0].nu
    assert moments.keys() == {"decoder"}


def test_terms_of_weight_zero_leave_no_trace(small_config):
    small_config.loss.lpips_weight = 0.0
    small_config.loss.adv_weight = 0.0
    objective = build_objective(small_config)
    assert objective.perceptual is None and isinstance(objective.adversary, NoGAN)
    assert frozen_inputs(small_config).keys() == {"seed"}


def test_perceptual_weight_is_the_papers(objective):
    assert objective.perceptual.weight == 0.5


def test_adaptive_weight_makes_the_gans_gradient_as_large_as_the_others(training, objective):
    """At the decoder's last kernel, as Esser et al. 2021, Eq. 7; no gradient goes through it."""
    draw = objective.draw(jax.random.key(0), training.config.batch_size)
    params, last = training.state.params, training.state.params["decoder"]["conv_out"]
    variants = {
        "reconstruction": NoGAN(),
        "constant": dataclasses.replace(objective.adversary, weight=1.0),
        "adaptive": dataclasses.replace(objective.adversary, weight=0.5, is_adaptive=True),
    }

    def losses(kernel):
        changed = params["decoder"] | {"conv_out": last | {"kernel": kernel}}
        rest = {"frozen": training.frozen, "batch": training.batch, "draw": draw, "step": 0}
        return {
            name: dataclasses.replace(objective, adversary=adversary).loss(
                params | {"decoder": changed}, training.state.discriminator, **rest
            )
            for name, adversary in variants.items()
        }

    def gradients(kernel):
        return jax.jacrev(lambda k: {name: loss for name, (loss, _) in losses(k).items()})(kernel)

    kernel = jax.random.normal(jax.random.key(1), last["kernel"].shape) / 30
    grads = jax.jit(gradients, compiler_options=QUICK_COMPILE)(kernel)
    adversarial = grads["constant"] - grads["reconstruction"]
    norms = [float(jnp.linalg.norm(x)) for x in (grads["reconstruction"], adversarial)]
    weight = 0.5 * norms[0] / (norms[1] + 1e-4)
    expected = grads["reconstruction"] + weight * adversarial
    np.testing.assert_allclose(grads["adaptive"], expected, rtol=1e-3, atol=1e-4 * norms[0])
