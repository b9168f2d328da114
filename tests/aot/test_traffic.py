"""What is read from compiled programs, against what those programs must do."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from epsilon_vae.aot.chips import open_topology
from epsilon_vae.aot.collectives import Collective, replica_group
from epsilon_vae.aot.hlo import parse
from epsilon_vae.aot.traffic import traffic
from epsilon_vae.parallel.mesh import make_mesh
from epsilon_vae.parallel.sharding import gather_parameters, infer_sharding

F32, BF16 = jnp.float32, jnp.bfloat16


def test_gathering_is_one_all_gather_of_the_whole(traffic_of):
    moved = traffic_of(lambda x: 2 * x, ((1024, 256), F32, P("fsdp")), out=P())
    assert moved.collectives == {
        Collective(kind="all-gather", num_bytes=1024 * 256 * 4, group_size=4): 1
    }
    assert moved.products == 0 and not moved.loops


def test_a_loop_counts_as_often_as_it_runs(traffic_of):
    def product_chain(x, weights):
        def step(x, w):
            return jnp.tanh(x @ w), None

        return jax.lax.scan(step, x, weights)[0]

    moved = traffic_of(
        product_chain,
        ((256, 512), F32, P(None, "fsdp")),
        ((6, 512, 512), F32, P(None, "fsdp")),
        out=P(None, "fsdp"),
    )
    assert list(moved.loops.values()) == [6]
    # A chip multiplies its quarter of the contracted dimension, then the parts are added up.
    assert moved.products == 6 * 2 * 256 * 128 * 512
    adding = [(c, n) for c, n in moved.collectives.items() if c.kind != "collective-permute"]
    assert sum(n for _, n in adding) == 6
    assert all(c.num_bytes == 256 * 512 * 4 and c.group_size == 4 for c, _ in adding)


def test_a_loop_that_starts_late_runs_less_often(traffic_of):
    def cool(x):
        return jax.lax.fori_loop(2, 7, lambda i, x: jnp.sin(x @ x) / (i + 1), x)

    moved = traffic_of(cool, ((256, 256), F32, P()), out=P())
    assert list(moved.loops.values()) == [5]
    assert moved.products == 5 * 2 * 256**3


def test_transfers_beside_compute_are_counted_once(traffic_of):
    """A gradient through sharded weights: gathered there and back, and scattered."""

    def loss(x, weights):
        def step(x, w):
            return jnp.tanh(x @ w.astype(x.dtype)), None

        return jax.lax.scan(step, x, weights)[0].astype(F32).sum()

    moved = traffic_of(
        jax.grad(loss, argnums=1),
        ((1024, 2048), BF16, P("fsdp")),
        ((6, 2048, 2048), F32, P(None, "fsdp")),
        out=P(None, "fsdp"),
    )
    counts = {}
    for collective, count in moved.collectives.items():
        counts[collective.kind] = counts.get(collective.kind, 0) + count
    assert (
        moved.collectives[Collective(kind="all-gather", num_bytes=2048 * 2048 * 2, group_size=4)]
        == 12
    )
    assert counts["all-gather"] == 12 and counts["reduce-scatter"] == 6
    assert "all-reduce" not in counts
    assert moved.products == 3 * 6 * 2 * 256 * 2048 * 2048


def test_convolution_of_sharded_rows_asks_both_neighbours_for_one(traffic_of, mesh):
    def convolve(x, w):
        dimensions = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=dimensions)

    rows = P(None, "fsdp")
    moved = traffic_of(
        convolve,
        ((1, 256, 256, 64), BF16, rows),
        ((3, 3, 64, 64), BF16, P()),
        out=rows,
    )
    assert moved.collectives == {
        Collective(kind="collective-permute", num_bytes=256 * 64 * 2, group_size=2): 2
    }
    assert NamedSharding(mesh, rows).shard_shape((1, 256, 256, 64))[1] == 64


def test_the_costlier_branch_counts(traffic_of):
    def branch(x):
        return jax.lax.cond(x[0, 0] > 0, lambda: x @ x @ x, lambda: x)

    moved = traffic_of(branch, ((256, 256), F32, P()), out=P())
    assert moved.has_branches and moved.products == 2 * 2 * 256**3


def test_hbm_bytes_of_a_matrix_product_are_its_operands_and_result(traffic_of):
    size = 8192  # too large for the memory on the chip
    moved = traffic_of(jnp.dot, ((size, size), BF16, P()), ((size, size), BF16, P()), out=P())
    assert moved.hbm_bytes == 3 * size * size * 2


@pytest.mark.parametrize(
    ("attributes", "group"),
    [
        ("replica_groups={{0,2},{1,3}}, x", [0, 2]),
        ("replica_groups=[2,4]<=[8], x", [0, 1, 2, 3]),
        ("replica_groups=[4,2]<=[2,4]T(1,0), x", [0, 4]),
        ("replica_groups=mesh['a'=2,'b'=4] {'b'}, x", [0, 1, 2, 3]),
        ("replica_groups=mesh['a'=2,'b'=4] {'a'}, x", [0, 4]),
        ("replica_groups=mesh['a'=2,'b'=4] {'b':(2)2}, x", [0, 1]),
        ("replica_groups=mesh['a'=2,'b'=4] {'b':(1)2}, x", [0, 2]),
        ("replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a'}, x", [0, 1, 2, 3]),
        ("replica_groups=mesh['a'=2,'b'=2], device_ids=(3,2,1,0) {'b'}, x", [3, 2]),
        ("source_target_pairs={{0,1},{1,2}}, x", [0, 1]),
    ],
)
def test_groups_in_every_notation(attributes, group):
    assert replica_group(attributes) == group


def test_an_unknown_notation_is_refused():
    with pytest.raises(ValueError, match="unknown notation"):
        replica_group("replica_groups=whatever")


ACROSS_SLICES = """HloModule m

ENTRY %main (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  %ar = f32[8]{0} all-reduce(%p), replica_groups={{0,4}}, to_apply=%add
  ROOT %done = f32[8]{0} copy(%ar)
}
"""


def test_a_group_on_two_slices_crosses_them():
    collectives = traffic(parse(ACROSS_SLICES), 8, num_slices=2).collectives
    assert collectives == {
        Collective(kind="all-reduce", num_bytes=32, group_size=2, crosses_slices=True): 1
    }
    collectives = traffic(parse(ACROSS_SLICES), 8).collectives
    assert collectives == {Collective(kind="all-reduce", num_bytes=32, group_size=2): 1}


def test_a_gradient_on_two_slices(topology):
    """Scattered within a slice, added up between slices, gathered within."""
    slices = open_topology("v5e:2x2", num_slices=2)
    mesh = make_mesh(devices=slices.devices)

    def loss(w, x):
        return jnp.tanh(x @ w).sum()

    w = jax.ShapeDtypeStruct((1024, 512), F32, sharding=NamedSharding(mesh, P()))
    x = jax.ShapeDtypeStruct((8192, 1024), F32, sharding=NamedSharding(mesh, P("data")))
    jitted = jax.jit(jax.grad(loss), out_shardings=NamedSharding(mesh, P()))
    moved = traffic(parse(jitted.lower(w, x).compile().as_text()), 8, 2)
    whole = 1024 * 512 * 4
    assert moved.collectives == {
        Collective(kind="reduce-scatter", num_bytes=whole, group_size=4): 1,
        Collective(kind="all-reduce", num_bytes=whole // 4, group_size=2, crosses_slices=True): 1,
        Collective(kind="all-gather", num_bytes=whole, group_size=4): 1,
    }


def test_a_sharded_kernel_is_gathered_and_its_gradient_scattered(mesh):
    """Once each, and no activations travel."""
    at = NamedSharding(mesh, P("fsdp"))
    images = jax.ShapeDtypeStruct((64, 64, 64, 256), jnp.bfloat16, sharding=at)
    shape = jax.ShapeDtypeStruct((3, 3, 256, 256), jnp.float32)
    kernel = jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=infer_sharding(shape, mesh))

    def loss(kernel, images):
        kernel = gather_parameters({"kernel": kernel}, jnp.bfloat16)["kernel"]
        for _ in range(2):
            images = jax.nn.silu(
                jax.lax.conv_general_dilated(
                    images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
                )
            )
            images = jax.lax.with_sharding_constraint(images, at)
        return jnp.sum(images.astype(jnp.float32) ** 2)

    with jax.set_mesh(mesh):
        gradient = jax.jit(jax.grad(loss), out_shardings=kernel.sharding)
        moved = traffic(parse(gradient.lower(kernel, images).compile().as_text()), 4)
    sizes = {c.kind: (c.num_bytes, count) for c, count in moved.collectives.items()}
    kernel_bytes = 2 * 3 * 3 * 256 * 256
    assert sizes == {"all-gather": (kernel_bytes, 1), "reduce-scatter": (kernel_bytes, 1)}
