import atexit
import gc
import os
import shutil
import tempfile
from importlib import metadata

# With the TPU compiler installed, JAX would look for a TPU, loudly.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests compile more than they compute: half the time, for steps that run almost as fast.
# JAX 0.10 can also do without the slower of its two ways to compile what is fused; later versions
# cannot.
WITHOUT_EMITTERS = {}
if metadata.version("jaxlib").startswith("0.10."):
    WITHOUT_EMITTERS = {"xla_cpu_use_fusion_emitters": False}


def as_flags(options: dict[str, int]) -> str:
    """Options of XLA as XLA_FLAGS has them."""
    return " ".join(f"--{name}={int(value)}" for name, value in options.items())


_options = {"xla_backend_optimization_level": 1} | WITHOUT_EMITTERS
os.environ.setdefault("XLA_FLAGS", as_flags(_options))
# What one process of the tests has compiled, the others find.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="xla_cache_")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
# Tracing makes many objects, and collecting garbage as often as by default is a third of its time.
gc.set_threshold(50_000, 20, 100)
