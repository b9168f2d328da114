"""Large images in tiles: as the whole where networks are local, and where norms see all of it."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import epsilon_vae
from epsilon_vae.diffusion.path import DDPM, Direct, Process, RectifiedFlow
from epsilon_vae.evaluation.protocols import Protocol
from epsilon_vae.evaluation.reconstructors import Run
from epsilon_vae.inference.autoencoder import Autoencoder
from epsilon_vae.inference.tiling import MOST_TILES, Tiling, noise_at, tiles_per_call
from epsilon_vae.models.autoencoder_model import AutoencoderModel
from epsilon_vae.models.bottleneck import VQBottleneck
from epsilon_vae.models.layers import GroupNorm, upsample_nearest
from epsilon_vae.parallel.mesh import local_mesh


class LocalEncoder(nn.Module):
    """Latents of 4 x 4 pixels each."""

    n_z: int = 3
    is_normed: bool = False

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        h = nn.Conv(self.n_z, (4, 4), strides=4)(images)
        return GroupNorm(1)(h) if self.is_normed else h


class LocalDecoder(nn.Module):
    """A pixel of noise and its latents, and perhaps a norm."""

    is_normed: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, t: jax.Array, latents: jax.Array) -> jax.Array:
        h = nn.Dense(3)(jnp.concatenate([x, upsample_nearest(latents, 4)], axis=-1))
        return GroupNorm(1)(h) / 4 if self.is_normed else h + t[:, None, None, None]


def local_vae(process: Process, *, tile: int, is_normed: bool = False, **others) -> Autoencoder:
    networks = AutoencoderModel(
        encoder=LocalEncoder(is_normed=is_normed),
        decoder=LocalDecoder(is_normed=is_normed),
        f=4,
        decoder_stride=8,
    )
    params = networks.init(jax.random.key(0), 32)
    return Autoencoder(networks, process, spacing="uniform", params=params, tile=tile, **others)


def photo(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (height, width, 3)).astype(np.float32)


def test_noise_is_the_cut_of_the_whole_image_s():
    key = jax.random.fold_in(jax.random.key(3), 1)
    whole = jax.random.normal(key, (1, 37, 51, 3))[0]
    pixels = np.arange(37 * 51).reshape(37, 51)[5:20, 30:50]
    np.testing.assert_array_equal(jax.jit(noise_at)(key, pixels), whole[5:20, 30:50])


@pytest.mark.parametrize("size", [(64, 64), (64, 72), (200, 136), (328, 64)])
@pytest.mark.parametrize("k", [1, 4])
def test_tiles_of_one_size_cover_the_image_and_blend_to_it(size, k):
    tiling = Tiling(*size, side=64, multiple=8)
    x = photo(size[0] // k, size[1] // k)
    cuts = tiling.cuts(x)
    assert cuts[:].shape == (len(cuts), 64 // k, 64 // k, 3)
    assert not (tiling.corners % 8).any()
    rows, columns = (np.diff(np.unique(tiling.corners[:, axis])) for axis in (0, 1))
    assert (np.concatenate([rows, columns]) <= 64 - 16).all()  # what they overlap by
    groups = (cuts[at : at + 5] for at in range(0, len(cuts), 5))
    np.testing.assert_allclose(tiling.blend(groups), x, atol=1e-6)
    probes = tiling.probes(x)
    assert probes.shape == (4, 64 // k, 64 // k, 3)


def test_probes_and_their_pixels_are_of_all_of_the_image():
    tiling = Tiling(400, 800, side=64, multiple=8)
    x = np.arange(400 * 800, dtype=np.uint32).reshape(400, 800, 1)
    tiles, pixels = tiling.pixels()
    np.testing.assert_array_equal(pixels, tiling.probes(x)[..., 0])
    np.testing.assert_array_equal(tiles[3:5], tiling.cuts(x)[3:5][..., 0])
    quarters = (pixels // 800 // 100) * 4 + pixels % 800 // 200
    assert np.unique(quarters).size == 16


@pytest.mark.parametrize(
    "process", [RectifiedFlow(0.6, "none"), RectifiedFlow(0.6, "analytic"), DDPM(), Direct()]
)
def test_local_networks_give_the_same_in_tiles(process):
    whole, tiled = (local_vae(process, tile=tile) for tile in (0, 32))
    images = np.stack([photo(101, 67), -photo(101, 67)])
    latents = whole.encode(images)
    np.testing.assert_allclose(tiled.encode(images), latents, atol=1e-5)
    for steps in (1, 3):
        expected = whole.decode(latents, steps, seed=5)
        np.testing.assert_allclose(tiled.decode(latents, steps, seed=5), expected, atol=1e-4)
    assert tiled.reconstruct(images, 1).shape == images.shape
    if tiled.is_diffusion:
        assert np.abs(tiled.decode(latents, 1, seed=6) - tiled.decode(latents, 1)).max() > 0.1


def test_a_call_takes_many_small_tiles_and_few_large_ones():
    assert [tiles_per_call(side) for side in (32, 128, 256, 512, 1024)] == [20, 20, 12, 4, 4]


def test_norms_measure_the_whole_image():
    """A smooth image: each tile alone would be stretched to the contrast of all of it."""
    ramp = np.linspace(-0.9, 0.9, 256, dtype=np.float32)
    image = np.broadcast_to((ramp[:, None] + ramp)[..., None] / 2, (256, 256, 3))
    whole, tiled = (local_vae(Direct(), tile=tile, is_normed=True) for tile in (0, 32))
    expected, found = whole.reconstruct(image), tiled.reconstruct(image)
    assert np.abs(found - expected).max() < 0.1 * np.ptp(expected)
    alone = whole.reconstruct(image[:32, :32])
    assert np.abs(alone - expected[:32, :32]).max() > 0.3 * np.ptp(expected)
    # Seams: steps between pixels where tiles begin and end, against those elsewhere.
    steps = np.abs(np.diff(found.mean(-1), axis=1)).mean(0)
    borders = np.unique(Tiling(256, 256, side=32, multiple=8).corners[:, 1])[1:]
    borders = np.concatenate([borders - 1, borders[:-1] + 31])
    others = np.setdiff1d(np.arange(3, 255, 4), borders)  # where latents end too
    assert steps[borders].mean() < 1.2 * steps[others].mean()


def test_one_program_does_large_images_of_all_sizes(caplog):
    vae = local_vae(RectifiedFlow(0.6), tile=32)
    vae.reconstruct(photo(100, 90), 1)
    caplog.clear()
    with jax.log_compiles():
        for size in ((8, 300), (300, 12), (128, 400)):
            assert vae.reconstruct(photo(*size), 1).shape == (*size, 3)
    assert "Compiling" not in caplog.text


def test_a_bar_shows_the_tiles_of_a_large_image(capsys):
    vae = local_vae(RectifiedFlow(0.6), tile=32, progress=True)
    count = len(vae.tiling(200, 200).corners)
    assert count > MOST_TILES
    vae.reconstruct(photo(200, 200), 1)
    shown = capsys.readouterr().err
    assert "encode: 100%" in shown and "decode: 100%" in shown and f"{count}/{count}" in shown
    vae.reconstruct(photo(32, 32), 1)
    assert "%" not in capsys.readouterr().err


def test_images_much_larger_than_those_of_training_are_cut_by_default(finished_run):
    vae = epsilon_vae.restore(str(finished_run))
    assert vae.tile_of(128, 128) == vae.tile_of(64, 256) == 0
    assert vae.tile_of(132, 128) == vae.tile_of(127, 129) == 64  # as padded
    assert epsilon_vae.restore(str(finished_run), tile=0).tiling(9999, 9999) is None
    image = photo(150, 150)
    given = epsilon_vae.restore(str(finished_run), tile=64)
    np.testing.assert_array_equal(vae.reconstruct(image, 1), given.reconstruct(image, 1))
    assert given.tile_of(65, 8) == 64 and given.tile_of(64, 64) == 0


def test_codes_are_not_blended_by_default(finished_run):
    vae = epsilon_vae.restore(str(finished_run))
    encoder = VQBottleneck(encoder=vae.networks.encoder, num_codes=8, n_z=2, commitment=0.25)
    networks = dataclasses.replace(vae.networks, encoder=encoder)
    parts = {"spacing": vae.spacing, "params": {}, "config": vae.config}
    assert Autoencoder(networks, vae.process, **parts).tiling(999, 999) is None
    assert Autoencoder(networks, vae.process, **parts, tile=64).tiling(999, 999).side == 64


def test_evaluation_takes_images_whole(finished_run):
    run = Run(str(finished_run), None, protocol=Protocol(name="x"), mesh=local_mesh())
    assert run.autoencoder.tiling(1024, 1024) is None
