"""Compiled programs are kept: where, for whom, and what happens if they cannot be."""

import jax
import numpy as np
import pytest
from etils import epath
from jax._src.compiler import get_compile_options
from PIL import Image

from epsilon_vae.parallel import programs
from epsilon_vae.parallel.batch import jit_shared
from epsilon_vae.parallel.mesh import make_mesh
from epsilon_vae.parallel.programs import compiler_options, keep_programs, user_folder
from epsilon_vae.training.build import build_train_step
from epsilon_vae.training.sharded import make_state, state_shapes
from tests.helpers import QUICK_FLAGS, flags
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


def test_neither_another_seed_nor_a_restart_compiles_anything(run_module, tmp_path):
    """All programs of a run: initialization, step, evaluation, and what they do beside."""
    environment = KEEP_ALL | QUICK_FLAGS | {"XDG_CACHE_HOME": str(tmp_path / "caches")}

    def train(seed: int, num_steps: int) -> tuple[str, list[str]]:
        changes = f"--config.seed={seed}", f"--config.num_steps={num_steps}"
        arguments = flags(tmp_path / str(seed), *changes)
        out, _ = finish(run_module("epsilon_vae.main", *arguments, **environment))
        return out, sorted(path.name for path in (tmp_path / "caches").rglob("*-cache"))

    out, programs = train(seed=0, num_steps=1)
    assert "Initializing" in out and {"jit_init", "jit_step"} <= {x.split("-")[0] for x in programs}
    assert train(seed=1, num_steps=1)[1] == programs
    again, restarted = train(seed=0, num_steps=2)
    assert "Initializing" not in again and restarted == programs


def test_initialization_in_a_hurry_gives_the_same_bits(small_config):
    small_config.loss.adv_weight = small_config.loss.lpips_weight = 0.0
    mesh, train_step = make_mesh(devices=jax.devices()[:1]), build_train_step(small_config)
    key, options = jax.random.key(3), {"xla_backend_optimization_level": 3}
    init = jax.jit(lambda key: train_step.init(key).params, compiler_options=options)
    made = make_state(train_step, 3, state_shapes(train_step, mesh)).params
    jax.tree.map(np.testing.assert_array_equal, made, init(key))


def test_without_a_place_nothing_is_kept(reconstruct):
    _, err = reconstruct("/dev/null")
    assert not err


@pytest.fixture
def jax_config():
    """JAX's settings of its cache, as a user's process begins with them."""
    names = (
        "jax_compilation_cache_dir",
        "jax_compilation_cache_max_size",
        "jax_persistent_cache_enable_xla_caches",
    )
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
    assert not autotuning_folder()


def test_a_gpus_autotuning_is_kept_beside_them(jax_config, tmp_path, monkeypatch):
    """What is measured of a fusion or a convolution serves other programs too."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    keep_programs()
    assert autotuning_folder().startswith(f"{user_folder()}/")


def autotuning_folder() -> str:
    options = get_compile_options(num_replicas=1, num_partitions=1)
    return options.executable_build_options.debug_options.xla_gpu_per_fusion_autotune_cache_dir


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


def test_a_cpu_convolves_with_all_cores():
    """Not in YNNPACK, which gives a convolution of few features one core."""
    mesh = make_mesh()
    if compiler_options(mesh) is None:
        pytest.skip(f"jaxlib {jax.lib.__version__} has no such option")

    def convolve(kernel, x):
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    arguments = np.ones((3, 3, 64, 64), np.float32), np.ones((8, 32, 32, 64), np.float32)
    with jax.set_mesh(mesh):
        text = jit_shared(convolve, mesh).lower(*arguments).compile().as_text()
    assert "convolution(" in text and "ynn_fusion" not in text
    assert "ynn_fusion" in jax.jit(convolve).lower(*arguments).compile().as_text()


def test_options_that_jaxlib_does_not_have_are_left_out(monkeypatch):
    monkeypatch.setattr(programs, "_CPU_OPTIONS", {"xla_cpu_of_another_version": "1"})
    programs._are_known.cache_clear()
    try:
        assert compiler_options(make_mesh()) is None
    finally:
        programs._are_known.cache_clear()
