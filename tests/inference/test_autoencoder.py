"""A restored model: shapes, seeds, batches, sizes, and what it does not import."""

import json
import pydoc
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

import epsilon_vae
from configs import tiny
from epsilon_vae import checksums
from epsilon_vae.checkpoint import CheckpointError
from epsilon_vae.config import ConfigError
from epsilon_vae.data.pipeline import BadRecords, evaluation_batches
from epsilon_vae.data.sources import Photos
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


def test_files_are_reconstructed_as_their_pixels(vae, images, tmp_path):
    Image.fromarray(images[0]).save(tmp_path / "photo.png")
    found = vae.reconstruct(str(tmp_path / "photo.png"))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, vae.reconstruct(images[0]))
    np.testing.assert_array_equal(vae.encode([*images[:2]]), vae.encode(images[:2]))


def test_bad_arguments_are_refused(vae, images):
    """The others are those of `inputs`, which all methods call."""
    for method in (vae.encode, vae.reconstruct):
        with pytest.raises(ValueError, match="channels come last"):
            method(images.transpose(0, 3, 1, 2))
    latents = np.zeros((8, 8, 8))
    for method in (vae.decode, vae.trajectory):
        with pytest.raises(ValueError, match="expected .* 8"):
            method(latents[..., :4], 1)
        with pytest.raises(ValueError, match="steps = 0"):
            method(latents, steps=0)
        with pytest.raises(ValueError, match="steps = 1.5: expected a whole number"):
            method(latents, steps=1.5)
        with pytest.raises(ValueError, match="seed = .*vae.functions.decode takes keys"):
            method(latents, steps=1, seed=jax.random.key(0))


def test_repr_says_what_it_is(vae):
    size = sum(x.size for x in jax.tree.leaves(vae.params))
    expected = (
        "Autoencoder(encoder=micro, f=4, n_z=8, decoder=adm, bottleneck=none, size=micro, "
        f"resolution=32, parameters={size:,}, step={STEPS}, origin={vae.origin})"
    )
    assert repr(vae) == expected and vae.origin.endswith(f"checkpoints/{STEPS}")


def test_help_begins_with_three_lines_of_use():
    lines = pydoc.plain(pydoc.render_doc(epsilon_vae)).splitlines()
    first = lines.index("DESCRIPTION") + 1
    starts = [line.split(" = ")[0].strip() for line in lines[first : first + 3]]
    assert starts == ["vae", "latents", "images"]
    assert any(line.strip().startswith("restore(workdir: str") for line in lines)
    with pytest.raises(AttributeError, match="has no attribute 'restor'"):
        _ = epsilon_vae.restor


def test_the_last_checkpoint_knows_the_mean_and_deviation_of_training_latents(vae, images):
    source = Photos("train")
    crops = {"resolution": 32, "crop": "center_crop_adm", "bad_records": BadRecords(0, 1)}
    latents = vae.encode(next(evaluation_batches(source, len(source), **crops))["image"])
    assert vae.latent_mean.shape == vae.latent_std.shape == (8,)
    assert vae.latent_mean.dtype == vae.latent_std.dtype == np.float32
    np.testing.assert_allclose(vae.latent_mean, latents.mean((0, 1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(vae.latent_std, latents.std((0, 1, 2)), rtol=1e-4)
    latents = vae.encode(images)
    normalized = vae.encode(images, normalize=True)
    expected = (latents - vae.latent_mean) / vae.latent_std
    np.testing.assert_allclose(normalized, expected, rtol=1e-4, atol=1e-5)
    again = vae.decode(normalized, 1, denormalize=True)
    np.testing.assert_allclose(again, vae.decode(latents, 1), atol=1e-3)


def test_without_mean_and_deviation_that_is_said(vae, finished_run, images):
    """As for all checkpoints of earlier versions, those before the last, and raw weights."""
    older = epsilon_vae.restore(str(finished_run), step=4)
    raw = epsilon_vae.restore(str(finished_run), weights="raw")
    for other in (older, raw):
        assert other.latent_mean is None and other.latent_std is None
        with pytest.raises(ValueError, match=r"checkpoints/\d: has no mean .* vae.normalization"):
            other.encode(images, normalize=True)
        with pytest.raises(ValueError, match="has no mean and deviation"):
            other.decode(np.zeros((8, 8, 8)), denormalize=True)
    older.normalization = vae.normalization
    assert older.encode(images, normalize=True).shape == (3, 8, 8, 8)


def test_normalization_that_is_damaged(finished_run, tmp_path):
    shutil.copytree(finished_run / "checkpoints", tmp_path / "checkpoints")
    step = tmp_path / "checkpoints" / str(STEPS)
    file = step / "data" / "metadata"
    content = json.loads(file.read_text())
    assert content["normalization"].keys() == {"mean", "std"}
    for bad in ([1], {"mean": [0.0] * 8}, {"mean": [0.0] * 7, "std": [1.0] * 7}, "x"):
        file.write_text(json.dumps(content | {"normalization": bad}))
        checksums.write(step)
        with pytest.raises(CheckpointError, match="its normalization of latents is none"):
            epsilon_vae.restore(str(tmp_path), step=STEPS)


def test_how_it_is_put_on_devices(vae, images, finished_run, capsys):
    run = str(finished_run)
    half = epsilon_vae.restore(run, dtype="bfloat16", device="cpu", group_size=2, progress=True)
    assert half.networks.decoder.dtype == jax.numpy.bfloat16 and half.config.dtype == "float32"
    assert jax.tree.leaves(half.params)[0].dtype == np.float32
    latents = half.encode(images)
    assert "encode: 100%" in capsys.readouterr().err
    assert 0 < np.abs(latents - vae.encode(images)).max() < 0.1 * np.abs(latents).max()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"dtype": "float8"}, "dtype = 'float8': expected one of float32, bfloat16"),
        ({"dtype": np.int32}, "dtype = 'int32'"),
        ({"weights": "best"}, "weights = 'best': expected one of ema, raw"),
        ({"spacing": "log"}, "spacing = 'log': expected one of reversed_log, uniform"),
        ({"device": "gpu0"}, "device = 'gpu0'"),
        ({"device": "cpu", "space": 2}, "space, device and mesh: give one of them"),
        ({"space": 0}, "space = 0: expected 1 to 1"),
        ({"tile": 100}, "tile = 100: expected 0, for whole images, or a multiple of 16 pixels"),
        ({"tile": -16}, "tile = -16"),
        ({"mesh": ("x",)}, r"mesh with axes \('x',\): expected .*make_mesh"),
    ],
)
def test_arguments_that_are_refused(finished_run, arguments, words):
    if "mesh" in arguments:
        arguments = {"mesh": jax.make_mesh((1,), arguments["mesh"])}
    with pytest.raises(ConfigError, match=words) as error:
        epsilon_vae.restore(str(finished_run), **arguments)
    assert "\n" not in str(error.value)


def test_the_snippets_of_the_guide():
    """Those of docs/guides/use.md for one's own program, as they are there."""
    page = (ROOT / "docs" / "guides" / "use.md").read_text()
    section = page.split("## Inside your own program")[1].split("\n## ")[0]
    code = "\n".join(re.findall(r"```python\n(.*?)```", section, re.DOTALL))
    names: dict = {}
    exec(compile(code, "use.md", "exec"), names)
    assert all(np.abs(x).max() > 0 for x in jax.tree.leaves(names["gradients"]))
    assert names["pictures"].shape == (4, 64, 64, 3)


def test_missing_run_and_step_are_named(finished_run, tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoints"):
        epsilon_vae.restore(str(tmp_path / "nowhere"))
    with pytest.raises(CheckpointError, match=r"no step 5; there are \[4, 6\]"):
        epsilon_vae.restore(str(finished_run), step=5)


@pytest.mark.parametrize("module", ["epsilon_vae.inference.autoencoder", "epsilon_vae.reconstruct"])
def test_use_imports_no_tensorflow(module):
    code = f"import sys, {module}; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
