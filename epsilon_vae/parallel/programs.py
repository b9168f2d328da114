"""Compiled programs that are kept: what one process has compiled, the next one loads."""

import contextlib
import functools
import os
import pathlib

import jax
from etils import epath
from jax.sharding import Mesh

# What jaxlib 0.10 hands to YNNPACK on a CPU by default, but for convolutions: those with fewer than
# 192 outputs run on one core there, and on all of them in Eigen.
_CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}

# The least recently used programs beyond this are removed. One of `tiny` has 1 to 5 MiB.
MAX_BYTES = 2 * 2**30


def keep_programs(workdir: epath.Path | None = None) -> None:
    """Has JAX keep compiled programs, unless JAX_COMPILATION_CACHE_DIR says where already.

    They are kept in `user_folder()`, and beside them what a GPU's kernels were tuned to. Several
    processes share none but that in the folder of their run, since process 0 alone writes it; so
    does a run in a bucket, whose machine may be another when it is resumed. Where nothing can be
    written, nothing is kept.

    Args:
      workdir: of the run that is trained; None for other commands.
    """
    if jax.config.jax_compilation_cache_dir or not jax.config.jax_enable_compilation_cache:
        return
    if jax.process_count() > 1 or "://" in str(workdir):
        if workdir is not None:
            jax.config.update("jax_compilation_cache_dir", str(workdir / "compilation_cache"))
        if "://" in str(workdir):  # XLA, which knows no buckets, would make a folder of that name
            jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
        return
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: nobody knows the home
        folder = user_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _remove_unfinished(folder)
        if os.access(folder, os.W_OK | os.X_OK):
            jax.config.update("jax_compilation_cache_dir", str(folder))
            if jax.config.jax_compilation_cache_max_size == -1:
                jax.config.update("jax_compilation_cache_max_size", MAX_BYTES)


def compiler_options(mesh: Mesh) -> dict[str, str] | None:
    """Options for `jax.jit` of networks that run on this mesh; None for XLA's own.

    On a CPU convolutions use all cores: a decoder forward is 1.5 times as fast on two
    (docs/results/benchmarks.md).
    """
    is_cpu = mesh.devices.flat[0].platform == "cpu"
    return _CPU_OPTIONS if is_cpu and _are_known() else None


@functools.cache
def _are_known() -> bool:
    """Whether this version of jaxlib has `_CPU_OPTIONS`."""
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        try:
            jax.jit(lambda: 0, compiler_options=_CPU_OPTIONS)()
        except jax.errors.JaxRuntimeError:
            return False
    return True


def user_folder() -> pathlib.Path:
    """`~/.cache/epsilon_vae/programs`, or in XDG_CACHE_HOME, which counts if it is absolute."""
    caches = pathlib.Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not caches.is_absolute():
        caches = pathlib.Path.home() / ".cache"
    return caches / "epsilon_vae" / "programs"


def _remove_unfinished(folder: pathlib.Path) -> None:
    """Removes what a process that was killed has left, over which JAX would stumble for ever.

    JAX writes a program, then the time of its last use.
    """
    for program in folder.glob("*-cache"):
        if not program.with_name(program.name.removesuffix("cache") + "atime").exists():
            program.unlink(missing_ok=True)
