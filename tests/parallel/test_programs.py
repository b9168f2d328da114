"""Compiled programs are kept: where, for whom, and what happens if they cannot be."""

import jax
import numpy as np
import pytest
from etils import epath
from PIL import Image

from epsilon_vae.parallel.programs import keep_programs, user_folder
from tests.processes import finish

# Also those that compile in less than a second.
KEEP_ALL = {"JAX_COMPILATION_CACHE_DIR": "", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}


@pytest.fixture
def reconstruct(finished_run, run_module, tmp_path):
    """Reconstructs an image with caches in a folder; returns the pixels and standard error."""
    source = tmp_path / "image.png"
    random = np.random.default_rng(0).integers(0, 256, (32, 36, 3), dtype=np.uint8)
    Image.fromarray(random).save(source)

    def run(caches: str) -> tuple[np.ndarray, str]:
        output = tmp_path / "out.png"
        flags = f"--workdir={finished_run}", f"--output={output}", "--overwrite", "--steps=1"
        environment = KEEP_ALL | {"XDG_CACHE_HOME": caches}
        _, err = finish(run_module("epsilon_vae.reconstruct", str(source), *flags, **environment))
        return np.asarray(Image.open(output)), err

    return run


def test_the_next_process_loads_them(reconstruct, tmp_path):
    folder = tmp_path / "caches" / "epsilon_vae" / "programs"
    first, err = reconstruct(str(tmp_path / "caches"))
    assert not err and folder.stat().st_mode & 0o777 == 0o700
    programs = {path: path.read_bytes() for path in folder.glob("*-cache")}
    assert sum(path.name.startswith("jit_on_mesh-") for path in programs) == 2
    used = {path: path.read_bytes() for path in folder.glob("*-atime")}
    again, err = reconstruct(str(tmp_path / "caches"))
    assert not err
    np.testing.assert_array_equal(again, first)
    assert {path: path.read_bytes() for path in folder.glob("*-cache")} == programs
    assert all(path.read_bytes() != used[path] for path in folder.glob("jit_on_mesh-*-atime"))

    # As a process leaves them that is killed while it writes one: it is written anew.
    broken = next(folder.glob("jit_on_mesh-*-cache"))
    broken.write_bytes(programs[broken][:100])
    broken.with_name(broken.name.replace("-cache", "-atime")).unlink()
    again, err = reconstruct(str(tmp_path / "caches"))
    assert not err and len(broken.read_bytes()) > 100
    np.testing.assert_array_equal(again, first)


def test_without_a_place_nothing_is_kept(reconstruct):
    _, err = reconstruct("/dev/null")
    assert not err


@pytest.fixture
def jax_config():
    """JAX's settings of its cache, as a user's process begins with them."""
    names = ("jax_compilation_cache_dir", "jax_compilation_cache_max_size")
    before = {name: getattr(jax.config, name) for name in names}
    before["jax_enable_compilation_cache"] = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_enable_compilation_cache", True)
    yield jax.config
    for name, value in before.items():
        jax.config.update(name, value)


def test_a_run_in_a_bucket_keeps_its_own(jax_config):
    keep_programs(epath.Path("gs://bucket/run"))
    assert jax_config.jax_compilation_cache_dir == "gs://bucket/run/compilation_cache"
    assert jax_config.jax_compilation_cache_max_size == -1  # a bucket has no locks


def test_what_the_user_has_set_counts(jax_config, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    jax_config.update("jax_compilation_cache_dir", "elsewhere")
    keep_programs(epath.Path(tmp_path / "run"))
    assert jax_config.jax_compilation_cache_dir == "elsewhere" and not list(tmp_path.iterdir())


def test_the_folder_is_xdgs(monkeypatch):
    monkeypatch.setenv("HOME", "/home/a")
    for caches, expected in (("/c", "/c"), ("", "/home/a/.cache"), ("c", "/home/a/.cache")):
        monkeypatch.setenv("XDG_CACHE_HOME", caches)
        assert str(user_folder()) == f"{expected}/epsilon_vae/programs"
