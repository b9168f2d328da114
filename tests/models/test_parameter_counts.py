"""Parameter counts of SPEC.md, as integers, without allocating one of them."""

import jax
import jax.numpy as jnp
import pytest

from configs import common
from epsilon_vae.diffusion.path import DDPM
from epsilon_vae.models.dit import DIT_SIZES, ClassDiT, DiT
from epsilon_vae.models.encoder import SDEncoder
from epsilon_vae.models.latent_diffusion import LatentDiffusion
from epsilon_vae.training.build import build_objective
from epsilon_vae.training.flops import parameter_counts


def count(config) -> dict[str, int]:
    return parameter_counts(build_objective(config))


@pytest.mark.parametrize(
    ("size", "n_z", "parameters"),
    [
        ("b", 8, 20_627_395),
        ("m", 8, 49_329_315),
        ("l", 8, 88_971_651),
        ("xl", 8, 140_621_699),
        ("h", 8, 355_611_395),
        ("b", 4, 20_625_091),
        ("m", 4, 49_325_859),
        ("l", 4, 88_967_043),
        ("xl", 4, 140_617_091),
        ("h", 4, 355_602_179),
    ],
)
def test_decoder(size, n_z, parameters):
    config = common.lite(size)
    config.model.encoder.n_z = n_z
    assert count(config)["decoder"] == parameters


@pytest.mark.parametrize(
    ("size", "parameters"),
    [
        ("b", 10_135_235),
        ("m", 22_781_475),
        ("l", 40_480_131),
        ("xl", 65_267_075),
        ("h", 161_798_915),
    ],
)
def test_decoder_of_the_papers_vae(size, parameters):
    assert count(common.vae(size))["decoder"] == parameters


@pytest.mark.parametrize(
    ("size", "patch", "parameters"),
    [
        ("s", 4, 32_548_272),
        ("b", 4, 129_682_224),
        ("l", 4, 456_995_888),
        ("xl", 4, 673_884_336),
        ("s", 8, 32_806_464),
        ("xl", 8, 674_658_624),
    ],
)
def test_dit_decoder(size, patch, parameters):
    """Ours to derive: the paper does not say them."""
    assert count(common.dit_decoder(size, patch))["decoder"] == parameters


@pytest.mark.parametrize(
    ("size", "parameters"),
    [
        ("s", 32_963_360),  # 33 M, Table 1 of Peebles & Xie
        ("b", 130_512_416),  # 130 M
        ("l", 458_102_816),  # 458 M
        ("xl", 675_129_632),  # 675 M, as the public code counts
    ],
)
def test_class_conditional_dit(size, parameters):
    """Patch 2, 4 channels, a learned variance; there, 16 × 16 positions are parameters too."""
    dit = DiT(**DIT_SIZES[size], patch=2, out_channels=8)
    model = LatentDiffusion(ClassDiT(dit, 1000), DDPM())
    shapes = jax.eval_shape(lambda key: model.init(key, (32, 32, 4)), jax.random.key(0))
    counted = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert counted + 16 * 16 * dit.width == parameters


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (common.sd_vae(), 83_653_863),  # diffusers' AutoencoderKL
        (common.llamagen(16), 71_883_403),  # 72 M, its paper
        (common.llamagen(8), 70_109_835),  # 70 M
        (common.omni_vae(), 46_440_288),  # what an image reaches of the public 53,712,544
    ],
    ids=["sd_vae", "vq16", "vq8", "omni_vae"],
)
def test_whole_autoencoders(config, parameters):
    counts = count(config)
    assert counts["encoder"] + counts["decoder"] == parameters


@pytest.mark.parametrize(
    ("name", "f", "n_z", "parameters"),
    [
        ("sd", 8, 4, 34_145_156),
        ("sd", 16, 4, 34_884_100),
        ("sd", 32, 4, 37_836_548),
        ("lite", 16, 8, 5_876_552),
        ("lite", 4, 8, 5_137_736),
        ("lite", 8, 8, 5_728_584),
        ("lite", 32, 8, 8_237_896),
        ("lite", 16, 4, 5_875_524),
        ("lite", 16, 16, 5_878_608),
        ("lite", 16, 32, 5_882_720),
    ],
)
def test_encoder(name, f, n_z, parameters):
    config = common.get_config()
    config.model.encoder.update({"name": name, "f": f, "n_z": n_z})
    assert count(config)["encoder"] == parameters


@pytest.mark.parametrize(
    ("size", "n_z", "parameters"),
    [
        ("s", 6, 1_036_272),  # 12 outputs, as its paper counts: 1.03 M
        ("b", 6, 6_751_792),  # 6.75 M
        ("m", 6, 32_751_280),  # 32.75 M
        ("l", 6, 41_424_688),  # 41.425 M
        ("b", 4, 6_750_636),
    ],
)
def test_litevae(size, n_z, parameters):
    """Means and log-variances; the decoder is SD-VAE's without its 1×1 convolution."""
    config = common.litevae(size)
    config.model.encoder.n_z = n_z
    counts = count(config)
    assert counts["encoder"] == parameters
    assert counts["decoder"] == 49_490_179 + (n_z - 4) * 9 * 512


@pytest.mark.parametrize(("size", "decoder"), [("l", 160_136_855), ("xl", 371_966_487)])
def test_asym_vae(size, decoder):
    """diffusers' AsymmetricAutoencoderKL: the decoder with its branch, and the 1×1 convolutions."""
    counts = count(common.asym_vae(size))
    assert (counts["encoder"], counts["decoder"]) == (34_163_592 + 72, decoder)


def test_sd_encoder_with_mean_and_log_variance():
    encoder = SDEncoder(n_z=8, multipliers=(1, 2, 4, 4))
    images = jnp.zeros((1, 32, 32, 3))
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), images)
    assert sum(x.size for x in jax.tree.leaves(shapes)) == 34_163_592


def test_discriminator():
    assert count(common.get_config())["discriminator"] == 3_311_681
