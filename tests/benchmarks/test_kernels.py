"""Kernels by kind: of a program on this CPU, and of a GPU's trace in the form that XLA gives it."""

import pathlib

import jax
import jax.numpy as jnp
import pytest
from jax.profiler import ProfileData

from benchmarks import kernels
from benchmarks.kernels import ATTENTION, COPIES, NORMS, OPTIMIZER, OTHER, PRODUCTS
from epsilon_vae.models.layers import GroupNorm, SelfAttention

# A compiled step as a GPU's XLA writes it: library calls, its own fusions, a command buffer.
PROGRAM = pathlib.Path(__file__).with_name("gpu_step.hlo").read_text()

# Kernel, its operation (none in a CUDA graph), kind.
GPU_KERNELS = [
    ("sm90_xmma_fprop_implicit_gemm_bf16_nhwckrsc_nhwc_cudnn", "cudnn-conv.1", PRODUCTS),
    ("void nchwToNhwcKernel<__nv_bfloat16, true>(...)", "cudnn-conv.1", COPIES),
    ("nvjet_hsh_128x256_TNT", "scores.1", ATTENTION),
    ("loop_norm_fusion", "loop_norm_fusion", NORMS),
    ("softmax_3", None, ATTENTION),
    ("loop_multiply_fusion_7", None, OPTIMIZER),
    ("loop_log_fusion", None, OTHER),
    ("gemm_fusion_dot_2", None, PRODUCTS),
    ("input_transpose_fusion_5", None, COPIES),
    ("nvjet_tst_192x192_NNT", None, PRODUCTS),
    ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop", None, ATTENTION),
    ("MemcpyD2D", None, COPIES),
]


def gpu_trace() -> ProfileData:
    """Two devices, with a millisecond for the first kernel, two for the second and so on."""
    names, events, stats = "", "", 'stat_metadata { key: 1 value { id: 1 name: "hlo_op" } }'
    for i, (name, operation, _) in enumerate(GPU_KERNELS, start=1):
        names += f'event_metadata {{ key: {i} value {{ id: {i} name: "{name}" }} }}\n'
        stat = f'stats {{ metadata_id: 1 str_value: "{operation}" }}' if operation else ""
        events += f"events {{ metadata_id: {i} duration_ps: {i}000000000 {stat} }}\n"
    lines = f'lines {{ id: 1 name: "Stream #13(Compute)" {events} }}'
    lines += f'lines {{ id: 2 name: "XLA Ops" {events} }}'  # says again what the stream has
    planes = "".join(
        f'planes {{ id: {i} name: "/device:GPU:{i}" {names} {stats} {lines} }}' for i in (0, 1)
    )
    # A host's event of the same program is no kernel.
    planes += f'planes {{ id: 3 name: "/host:CPU" {names} {stats} {lines} }}'
    return ProfileData.from_serialized_xspace(ProfileData.text_proto_to_serialized_xspace(planes))


def test_kinds_of_a_gpus_kernels():
    found = {kernel.name: kernel for kernel in kernels.kernels(gpu_trace(), PROGRAM)}
    assert {name: found[name].kind for name in found} == {
        name: kind for name, _, kind in GPU_KERNELS
    }
    assert found["loop_multiply_fusion_7"].scope == "jit(step)/mul"
    for i, (name, _, _) in enumerate(GPU_KERNELS, start=1):
        assert found[name].seconds == pytest.approx(i / 1e3) and found[name].calls == 2


def test_table_adds_up(capsys):
    found = kernels.kernels(gpu_trace(), PROGRAM)
    kernels.print_table(found, calls=2, seconds=0.1, longest=3)
    lines = capsys.readouterr().out.splitlines()
    rows = {line[2:30].strip(): float(line[30:40]) for line in lines[1:8]}
    assert rows.pop("all") == pytest.approx(78 / 2) == pytest.approx(sum(rows.values()))
    assert rows[ATTENTION] == pytest.approx((3 + 5 + 11) / 2)
    assert [line.split()[0] for line in lines[-3:]] == ["6.000", "5.500", "5.000"]


def test_kinds_on_this_cpu():
    """Attention's own products are attention's, those before and after it are products."""
    module = SelfAttention(head_dim=8, groups=4, epsilon=1e-5, dtype=jnp.float32, name="attention")
    norm = GroupNorm(4, name="norm1")
    x = jnp.ones((1, 16, 16, 16))
    params = module.init(jax.random.key(0), x), norm.init(jax.random.key(0), x)
    kernel = jnp.ones((3, 3, 16, 16))

    def step(params, kernel, x):
        def loss(params):
            h = jax.lax.conv_general_dilated(
                norm.apply(params[1], x), kernel, (1, 1), "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )  # fmt: skip
            return jnp.sum(module.apply(params[0], h))

        return jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params))

    compiled = jax.jit(step).lower(params, kernel, x).compile()
    with kernels.trace() as profile:
        jax.block_until_ready(compiled(params, kernel, x))
    found = kernels.kernels(profile[0], compiled.as_text())
    kinds = {kernel.kind for kernel in found}
    assert {PRODUCTS, NORMS, ATTENTION, OPTIMIZER} <= kinds
    scopes = {kind: [k.scope for k in found if k.kind == kind] for kind in kinds}
    assert any("conv_general_dilated" in scope for scope in scopes[PRODUCTS])
    assert not any("attention/norm" in scope for scope in scopes[ATTENTION])


def test_seconds_under_way_count_once():
    names = 'event_metadata { key: 1 value { id: 1 name: "autotuner" } }'
    names += 'event_metadata { key: 2 value { id: 2 name: "algsimp" } }'
    spans = ((1, 0, 4), (1, 2, 4), (2, 3, 90), (1, 8, 2))  # name, start and seconds
    events = "".join(
        f"events {{ metadata_id: {i} offset_ps: {at * 10**12} duration_ps: {seconds * 10**12} }}"
        for i, at, seconds in spans
    )
    text = f'planes {{ name: "/host:CPU" {names} lines {{ name: "pool" {events} }} }}'
    data = ProfileData.from_serialized_xspace(ProfileData.text_proto_to_serialized_xspace(text))
    assert kernels.seconds_of(data, "autotun|algorithm-picker") == 8


def test_passes_of_the_compiler_are_in_its_trace():
    with kernels.trace(device=False) as profile:
        jax.jit(lambda x: jnp.tanh(x) @ x).lower(jnp.ones((8, 8))).compile()
    assert kernels.seconds_of(profile[0], "algsimp") > 0
    assert kernels.seconds_of(profile[0], "autotun|algorithm-picker") == 0  # there is no GPU
