"""The devices in words, for the console; and a GPU that this JAX does not use."""

import importlib.util
import os
import pathlib
import re
import subprocess

import jax

_DRIVER = pathlib.Path("/proc/driver/nvidia/gpus")


def in_words() -> str:
    """What JAX computes on: '1 x NVIDIA H100', '2 CPU cores', '16 x TPU v5e, 4 processes'."""
    count = jax.device_count()
    if jax.default_backend() == "cpu":
        cores = len(os.sched_getaffinity(0))
        words = f"{cores} CPU core{'s' if cores > 1 else ''}"
        words += f", as {count} devices" if count > 1 else ""
    else:
        words = f"{count} x {jax.devices()[0].device_kind}"
    processes = jax.process_count()
    return f"{words}, {processes} processes" if processes > 1 else words


def unused_gpu() -> str | None:
    """A sentence about NVIDIA's GPUs where JAX computes on the CPU, and nobody told it to."""
    is_hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if jax.default_backend() != "cpu" or jax.config.jax_platforms or is_hidden:
        return None
    gpus = _nvidia_gpus()
    if not gpus:
        return None
    found = f"{len(gpus)} x {gpus[0]} is there, but"
    if any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13)):
        return f"{found} JAX cannot use it: python -c 'import jax; jax.devices(\"cuda\")' says why"
    return f"{found} this JAX is the CPU's: pip install -e '.[cuda]'"


def _nvidia_gpus() -> list[str]:
    """Names of the GPUs that nvidia-smi or the driver lists."""
    try:
        command = ["nvidia-smi", "--list-gpus"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
        return re.findall(r"^GPU \d+: (.+?)(?: \(UUID|$)", done.stdout, re.MULTILINE)
    except (OSError, subprocess.SubprocessError):
        files = sorted(_DRIVER.glob("*/information"))
        return [_model(path.read_text(errors="replace")) for path in files]


def _model(text: str) -> str:
    model = re.search(r"^Model:\s*(.+)$", text, re.MULTILINE)
    return model[1].strip() if model else "NVIDIA GPU"
