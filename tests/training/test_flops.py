"""FLOPs counted in the jaxpr, against XLA's count of unoptimized programs, and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from configs import tiny
from epsilon_vae.losses.perceptual import LPIPS
from epsilon_vae.models.dit import DIT_SIZES, ClassDiT, DiT
from epsilon_vae.training.build import build_train_step, frozen_inputs
from epsilon_vae.training.flops import jaxpr_flops, step_flops
from tests.helpers import state_shapes


def flops(function, *arrays) -> float:
    return jaxpr_flops(jax.make_jaxpr(function)(*arrays).jaxpr)


def xla_flops(function, *arrays) -> float:
    return jax.jit(function).lower(*arrays).cost_analysis()["flops"]


def conv(strides=(1, 1), padding="SAME", lhs_dilation=None, rhs_dilation=None, groups=1):
    def convolve(x, w):
        return jax.lax.conv_general_dilated(
            x,
            w,
            strides,
            padding,
            lhs_dilation,
            rhs_dilation,
            ("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    return convolve


X, W = jnp.ones((2, 16, 20, 8)), jnp.ones((3, 3, 8, 12))


@pytest.mark.parametrize(
    ("function", "arrays"),
    [
        (jnp.dot, (jnp.ones((5, 7)), jnp.ones((7, 3)))),
        (lambda q, k: jnp.einsum("bthd,bshd->bhts", q, k), (jnp.ones((2, 6, 3, 4)),) * 2),
        (conv(), (X, W)),
        (conv((2, 2)), (X, W)),
        (conv((2, 2), ((0, 1), (0, 1))), (X, W)),
        (conv(padding="VALID", rhs_dilation=(2, 2)), (X, W)),
        (conv(padding=((1, 2), (1, 2)), lhs_dilation=(2, 2)), (X, W)),
        (conv(groups=2), (X, jnp.ones((3, 3, 4, 12)))),
    ],
)
def test_products_are_xlas(function, arrays):
    assert flops(function, *arrays) == xla_flops(function, *arrays)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
def test_gradients_of_convolutions_are_xlas(strides, groups):
    kernel = W[:, :, : 8 // groups]
    out = conv(strides, groups=groups)(X, kernel)

    def backward(x, w, cotangent):
        return jax.vjp(conv(strides, groups=groups), x, w)[1](cotangent)

    assert flops(backward, X, kernel, out) == xla_flops(backward, X, kernel, out)


A = jnp.ones((8, 8))
ONE = 2 * 8**3


def test_control_flow_by_hand():
    def looped(x):
        return jax.lax.scan(lambda x, _: (x @ x, None), x, length=5)[0]

    def mapped(x):
        return jax.lax.map(lambda row: row @ x, x)

    def fixed(x):
        return jax.lax.fori_loop(0, 3, lambda i, x: x @ x, x)

    def branched(x):
        return jax.lax.cond(x[0, 0] > 0, lambda: x @ x @ x, lambda: x @ x)

    @jax.checkpoint
    def recomputed(x):
        return jnp.sin(x @ x) @ x

    assert flops(looped, A) == 5 * ONE
    assert flops(mapped, A) == ONE
    assert flops(fixed, A) == 3 * ONE
    assert flops(branched, A) == 2 * ONE
    assert flops(jax.jit(jax.jit(jnp.dot)), A, A) == ONE
    plain = flops(jax.value_and_grad(lambda x: jnp.sum(recomputed.__wrapped__(x))), A)
    assert flops(jax.value_and_grad(lambda x: jnp.sum(recomputed(x))), A) == plain + ONE


def test_a_shard_map_counts_on_every_device():
    """Of the axes that it takes over; along the others the compiler shares out the work."""
    mesh = jax.sharding.AbstractMesh((4, 2), ("x", "y"), axis_types=2 * (AxisType.Auto,))
    part = jax.shard_map(
        jnp.dot, mesh=mesh, in_specs=(P("x"), P()), out_specs=P("x"), axis_names={"x"}
    )
    assert flops(part, A, A) == ONE


def test_the_whole_step_is_xlas_but_for_its_element_wise_operations():
    config = tiny.get_config()
    config.data.resolution = 32
    step, frozen = build_train_step(config), frozen_inputs(config)
    ours = step_flops(step, frozen, 4)
    xlas = xla_flops(step, state_shapes(config), frozen, step.objective.batch_shapes(4))
    assert 0.97 < ours / xlas < 1


def test_lpips_costs_three_forward_passes():
    """Of both images, and back through the estimate's alone: x0 takes no gradients."""
    config = tiny.get_config()
    config.data.resolution = 32
    frozen, images = frozen_inputs(config), jnp.ones((4, 32, 32, 3))
    with_lpips = step_flops(build_train_step(config), frozen, 4)
    forward = flops(LPIPS(config.loss.lpips_net), frozen["lpips"], images, images) / 2
    config.loss.lpips_weight = 0.0
    without = step_flops(build_train_step(config), frozen, 4)
    assert with_lpips - without == pytest.approx(3 * forward, rel=0.01)


def test_accumulation_and_remat():
    """Parts cost the same together; what remat computes again is counted."""
    config, counts = tiny.get_config(), {}
    config.data.resolution = 32
    for remat, parts in (("none", 1), ("none", 2), ("convs", 1), ("full", 1)):
        config.model.remat, config.optim.accumulate = remat, parts
        step = build_train_step(config)
        frozen = frozen_inputs(config)
        counts[remat, parts] = step_flops(step, frozen, 4)
    plain = counts["none", 1]
    assert np.isclose(counts["none", 2], plain, rtol=1e-6)
    assert counts["convs", 1] == pytest.approx(plain, rel=0.01)
    # LPIPS and the discriminator, of which nothing is computed again, are a good part of `tiny`.
    assert 1.1 * plain < counts["full", 1] < 1.34 * plain


def test_dit_xl_2_costs_what_is_published():
    """118.6 GMACs at 32 × 32 latents (Peebles & Xie, Table 1, which calls them Gflops)."""
    dit = DiT(**DIT_SIZES["xl"], patch=2, out_channels=8)
    module, key = ClassDiT(dit, 1000), jax.eval_shape(lambda: jax.random.key(0))
    inputs = (
        jax.ShapeDtypeStruct((1, 32, 32, 4), jnp.float32),
        jax.ShapeDtypeStruct((1,), jnp.float32),
        jax.ShapeDtypeStruct((1,), jnp.int32),
    )
    params = jax.eval_shape(module.init, key, *inputs)
    published = 2 * 118.6e9
    assert flops(module.apply, params, *inputs) == pytest.approx(published, rel=0.002)
    assert xla_flops(module.apply, params, *inputs) == pytest.approx(published, rel=0.05)
