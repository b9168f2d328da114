"""The models that come with the package: they load by name, and their pictures look right."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

import epsilon_vae
from epsilon_vae.inference.restoring import RELEASED
from epsilon_vae.metrics.psnr_ssim import psnr
from epsilon_vae.pretrained.weights import WeightsError
from tests.helpers import held_out_images
from tests.processes import finish, start_alone

PACKAGED = 12 * 10**6  # bytes of the largest file


def test_they_are_listed():
    assert epsilon_vae.list_models() == ["small"]
    with pytest.raises(WeightsError, match="smal: neither a folder nor a model of"):
        epsilon_vae.load("smal")


@pytest.mark.parametrize("name", epsilon_vae.list_models())
def test_a_folder_is_small_and_says_what_it_is(name):
    folder = RELEASED / name
    assert max(file.stat().st_size for file in folder.iterdir()) <= PACKAGED
    card = (folder / "README.md").read_text(encoding="utf-8")
    for heading in ("How to load", "How it was trained", "How good it is", "Photos", "License"):
        assert f"## {heading}\n" in card
    assert f'epsilon_vae.load("{name}")' in card
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert not pathlib.Path(config["data"]["path"]).is_absolute(), "a path of some machine"


@pytest.fixture(scope="module")
def vae():
    return epsilon_vae.load("small", group_size=3)


@pytest.mark.parametrize("steps", [1, 3])
def test_pictures_look_right(vae, steps):
    """Alike, of the same contrast, and without colored noise, on photos that it was not shown."""
    images = held_out_images(64)
    found = vae.reconstruct(images, steps=steps)
    assert psnr(images / 255, found / 255).mean() > 20
    contrast = found.std(axis=(1, 2, 3)) / images.std(axis=(1, 2, 3))
    np.testing.assert_allclose(contrast, 1, atol=0.12)
    assert fine_color(found) < 1.25 * fine_color(images)


def fine_color(images: np.ndarray) -> float:
    """Deviation of color, not brightness, from its surroundings: what colored noise raises."""
    color = images - images.mean(axis=-1, keepdims=True)
    return float((color - gaussian_filter(color, (0, 2, 2, 0))).std())


def test_its_latents_have_a_measured_mean(vae):
    latents = vae.encode(held_out_images(64), normalize=True)
    assert latents.shape == (3, 8, 8, 16) and vae.latent_std.shape == (16,)
    assert abs(latents.mean()) < 0.3 and 0.7 < latents.std() < 1.3


def test_a_photo_is_reconstructed_without_training(tmp_path):
    photo, output = tmp_path / "photo.jpg", tmp_path / "out.png"
    Image.fromarray(held_out_images(64)[0]).save(photo, quality=95)
    command = "epsilon_vae.reconstruct", str(photo), f"--output={output}", "--steps=1"
    out, err = finish(start_alone(*command))
    assert "PSNR " in out and Image.open(output).size == (64, 64)
    assert "The model is small, which comes with this package" in err
