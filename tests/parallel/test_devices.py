"""What the console says of devices, and of a GPU that is not used."""

import os
import subprocess
import sys

import pytest

from epsilon_vae.parallel import devices
from tests.processes import ROOT

SHOW = "from epsilon_vae.parallel import devices as d; print(d.in_words()); print(d.unused_gpu())"
GPU = "GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-0)"


@pytest.fixture
def with_gpu(tmp_path, monkeypatch):
    """An nvidia-smi that lists two."""
    command = tmp_path / "nvidia-smi"
    command.write_text(f"#!/bin/sh\necho '{GPU}'\necho '{GPU.replace('GPU 0', 'GPU 1')}'\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


def show(**environment: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", SHOW],
        cwd=ROOT,
        env=os.environ | {"TPU_SKIP_MDS_QUERY": "1"} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_gpu_that_this_jax_cannot_use_is_said(with_gpu):
    words, unused = show(JAX_PLATFORMS="")
    assert words.endswith(("CPU core", "CPU cores"))
    assert unused == (
        "2 x NVIDIA H100 80GB HBM3 is there, but this JAX is the CPU's: pip install -e '.[cuda]'"
    )


def test_who_asks_for_the_cpu_is_told_nothing(with_gpu):
    words, unused = show(JAX_PLATFORMS="cpu", XLA_FLAGS="--xla_force_host_platform_device_count=3")
    assert words.endswith(", as 3 devices") and unused == "None"


def test_driver_tells_what_a_missing_nvidia_smi_does_not(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    for number, text in enumerate(("Model: \t\t NVIDIA L4\nIRQ: 11\n", "")):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "information").write_text(text)
    monkeypatch.setattr(devices, "_DRIVER", tmp_path)
    assert devices._nvidia_gpus() == ["NVIDIA L4", "NVIDIA GPU"]
    monkeypatch.setattr(devices, "_DRIVER", tmp_path / "nowhere")
    assert devices._nvidia_gpus() == []
