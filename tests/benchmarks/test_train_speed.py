"""The benchmark of a training step in its smallest form, as a process."""

import os
import re
import subprocess

import jax
import jax.numpy as jnp
import pytest

from benchmarks import kernels, timing, train_speed
from epsilon_vae.pretrained import registry
from tests.processes import ROOT, finish

MODULE = "benchmarks.train_speed"
MICRO = ("--config=tests/micro.py", "--rounds=1", "--calls=1")


def test_step_is_timed_and_traced(run_module, tmp_path):
    """Twice one batch size: what is printed is consistent, and kernels of all kinds add up."""
    more = ("--batch_sizes=4,4", "--longest=5", f"--trace={tmp_path}")
    out, _ = finish(run_module(MODULE, *MICRO, *more))
    matrix_rate = float(re.search(r"products: ([\d.]+) TFLOP/s on one device", out)[1])
    rows = re.findall(
        r"^ +(\d) +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+)% +([\d.]+)  (.*)", out, re.M
    )
    assert [row[0] for row in rows] == ["4", "4"]
    for batch, milliseconds, images, teraflops, share, gib, parts in rows:
        assert float(images) == pytest.approx(1e3 * int(batch) / float(milliseconds), rel=0.02)
        assert float(share) == pytest.approx(
            100 * float(teraflops) / matrix_rate, rel=0.02, abs=0.1
        )
        assert 0 < float(gib) < 1
        total, names = float(parts.split(":")[0]), re.findall(r"([a-z ]+) ([\d.]+)", parts)
        assert [name.strip() for name, _ in names] == [
            *("state", "tracing", "compiling", "autotuning", "first run"),
        ]
        assert total == pytest.approx(sum(float(seconds) for _, seconds in names), abs=0.3)
    table = dict(re.findall(r"^  (\D+?) +([\d.]+) ms(?: |$)", out, re.M))
    assert [*table] == [*kernels.KINDS, "all"]
    assert all(float(table[kind]) > 0 for kind in kernels.KINDS)
    total = sum(float(table[kind]) for kind in kernels.KINDS)
    assert float(table["all"]) == pytest.approx(total, rel=0.02)
    assert [*tmp_path.rglob("*.xplane.pb")]


def test_script_for_a_gpu(tmp_path):
    """One part of it in its smallest form; without a GPU it goes on, as after a part that fails."""
    environment = os.environ | {"CONFIG": "tests/micro.py", "BATCH_SIZES": "4"}
    command = ["benchmarks/gpu.sh", tmp_path, "no_such_part", "train"]
    subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True)
    log = (tmp_path / "log.txt").read_text()
    assert "no such part: no_such_part" in log and "== code 0" in log
    assert all(f"\n  {kind} " in log for kind in kernels.KINDS)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--config=tiny", "--batch_sizes=8,x"), "--batch_sizes=8,x: 'x' is no size"),
        (("--config=dit_tiny", "--against=torch"), "is of a latent diffusion model"),
        (("--config=tiny", "--against=torch"), "input_skip = False would do"),
        ((), "--config is missing"),
    ],
)
def test_refusals(run_module, flags, words):
    process = run_module(MODULE, *flags)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2 and words in err and err.count("\n") == 1


@pytest.mark.parametrize("net", ["vgg16", "alexnet"])
def test_random_weights_of_lpips_have_the_shapes_of_the_known_ones(net):
    shapes = jax.tree.map(lambda x: (x.shape, str(x.dtype)), train_speed.lpips_weights(net))
    assert shapes == jax.tree.map(lambda x: (x.shape, str(x.dtype)), registry.load(net))


def test_too_little_memory_is_told_from_other_errors():
    with pytest.raises(jax.errors.JaxRuntimeError) as caught:
        jax.block_until_ready(jnp.zeros(2**46))
    assert timing.is_out_of_memory(caught.value)
    assert not timing.is_out_of_memory(ValueError("another"))
