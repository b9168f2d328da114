"""A restored model: shapes, seeds, batches, sizes, and what it does not import."""

import subprocess
import sys

import jax
import numpy as np
import pytest

import epsilon_vae
from configs import tiny
from epsilon_vae.checkpoint import CheckpointError
from epsilon_vae.data.transforms import to_float
from epsilon_vae.inference.autoencoder import Autoencoder
from epsilon_vae.models.build import build_networks, build_process
from epsilon_vae.models.unet import UNET_SIZES
from tests.helpers import STEPS, held_out_images
from tests.processes import ROOT


@pytest.fixture(scope="module")
def vae(finished_run) -> Autoencoder:
    return epsilon_vae.restore(str(finished_run))


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return held_out_images(32)


def test_newest_step_and_its_config_by_default(vae):
    assert vae.step == STEPS and vae.config.data.resolution == 32


def test_parameters_are_the_ema(vae, finished_run):
    older = epsilon_vae.restore(str(finished_run), step=4)
    assert older.step == 4
    leaves = zip(jax.tree.leaves(vae.params), jax.tree.leaves(older.params), strict=True)
    assert any(not np.array_equal(a, b) for a, b in leaves)


def test_shapes_and_types(vae, images):
    latents = vae.encode(images)
    assert latents.shape == (3, 8, 8, 8) and latents.dtype == np.float32
    decoded = vae.decode(latents)
    assert decoded.shape == (3, 32, 32, 3) and decoded.dtype == np.float32
    assert np.abs(decoded).max() <= 1
    assert vae.reconstruct(images).dtype == np.uint8
    assert vae.encode(images[0]).shape == (8, 8, 8)
    assert vae.decode(latents[0]).shape == (32, 32, 3)


def test_without_noise_steps_and_seed_change_nothing(images):
    config = tiny.get_config()
    config.model.decoder.name, config.model.decoder.input_skip = "vae", False
    config.flow.process = "direct"
    networks = build_networks(config)
    params = jax.jit(networks.init, static_argnums=1)(jax.random.key(0), 32)
    direct = Autoencoder(
        networks, build_process(config), spacing=config.flow.spacing, params=params
    )
    first, other = direct.reconstruct(images), direct.reconstruct(images, steps=1, seed=7)
    np.testing.assert_array_equal(first, other)
    assert direct.nfe(3) == 1 and first.std() > 1


def test_uint8_and_float_images_are_the_same(vae, images):
    np.testing.assert_array_equal(vae.encode(images), vae.encode(to_float(images)))


def test_reconstruct_is_decode_of_encode(vae, images):
    x = to_float(images)
    np.testing.assert_array_equal(vae.reconstruct(x, 2, 5), vae.decode(vae.encode(x), 2, 5))


def test_same_seed_same_result_other_seed_another(vae, images):
    first, again, other = (vae.reconstruct(to_float(images), 1, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3


def test_batch_has_no_influence_on_an_image(vae, images):
    together = vae.reconstruct(to_float(images), 3, 1)
    for image, expected in zip(images, together, strict=True):
        np.testing.assert_array_equal(vae.reconstruct(to_float(image), 3, 1), expected)


def test_one_program_does_any_number_of_images(vae, images, caplog):
    with jax.log_compiles():
        vae.reconstruct(np.concatenate([images, images]), 1)
        caplog.clear()
        for count in (1, 2, 3, 5):
            vae.reconstruct(np.concatenate([images, images])[:count], 1)
    assert "Compiling" not in caplog.text
    with jax.log_compiles():
        vae.reconstruct(np.zeros((32, 44, 3), np.uint8), 1)
    assert "Compiling" in caplog.text


@pytest.mark.parametrize("size", [(37, 50), (5, 64), (32, 33)])
def test_any_size_comes_back(vae, size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    assert vae.reconstruct(image, 1).shape == image.shape


def test_latents_of_a_decoder_with_a_larger_stride(small_config, monkeypatch):
    """f 4 and stride 8, as f 8 and stride 16 in `sd`: padded to be decoded, and cut to size."""
    monkeypatch.setitem(UNET_SIZES["micro"], "multipliers", (1, 1, 1, 1))
    networks, process = build_networks(small_config), build_process(small_config)
    assert (networks.f, networks.decoder_stride) == (4, 8)
    params = jax.jit(networks.init, static_argnums=1)(jax.random.key(0), 32)
    vae = Autoencoder(networks, process, spacing="uniform", params=params)
    assert vae.decode(np.zeros((5, 7, 8)), 1).shape == (20, 28, 3)


def test_latents_of_any_size_are_decoded(vae):
    assert vae.decode(np.zeros((5, 7, 8)), 1).shape == (20, 28, 3)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((32, 32), np.uint8), "expected \\[H, W, 3\\]"),
        (np.zeros((32, 32, 4), np.uint8), "expected \\[H, W, 3\\]"),
        (np.zeros((32, 32, 3), np.int64), "expected uint8, or float"),
        (np.full((32, 32, 3), 255.0), "must lie in \\[-1, 1\\]"),
        (np.full((32, 32, 3), np.nan), "must lie in \\[-1, 1\\]"),
    ],
)
def test_bad_images_are_refused(vae, images, words):
    with pytest.raises(ValueError, match=words):
        vae.encode(images)


def test_the_pure_encoder_refuses_what_it_would_encode_wrongly(vae, images):
    with pytest.raises(ValueError, match="images of uint8"):
        vae.networks.encode(vae.params, images)
    with pytest.raises(ValueError, match="sides must be multiples of 4"):
        vae.networks.encode(vae.params, to_float(images)[:, :31])


def test_bad_latents_and_steps_are_refused(vae):
    with pytest.raises(ValueError, match="expected .* 8"):
        vae.decode(np.zeros((8, 8, 4)))
    with pytest.raises(ValueError, match="steps = 0"):
        vae.decode(np.zeros((8, 8, 8)), steps=0)


def test_missing_run_and_step_are_named(finished_run, tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoints"):
        epsilon_vae.restore(str(tmp_path / "nowhere"))
    with pytest.raises(CheckpointError, match=r"no step 5; there are \[4, 6\]"):
        epsilon_vae.restore(str(finished_run), step=5)


@pytest.mark.parametrize("module", ["epsilon_vae.inference.autoencoder", "epsilon_vae.reconstruct"])
def test_use_imports_no_tensorflow(module):
    code = f"import sys, {module}; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
