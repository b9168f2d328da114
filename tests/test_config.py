"""Wrong configs are refused with one line that names the key, the value and what would do."""

import pytest

from configs import common, latent_diffusion, tiny
from docs import config_reference
from epsilon_vae import keys
from epsilon_vae.config import (
    ConfigError,
    check,
    check_override,
    differences,
    from_dict,
    mesh_shape,
    to_json,
)
from epsilon_vae.data.transforms import EVALUATION_CROPS, TRAINING_CROPS
from epsilon_vae.diffusion.time import SPACINGS, TIME_SAMPLINGS
from epsilon_vae.losses.adversarial import MATCHINGS
from epsilon_vae.losses.perceptual import NETS
from epsilon_vae.models.build import DIRECT_DECODERS, ENCODERS, build_networks
from epsilon_vae.models.discriminator import DISCRIMINATORS
from epsilon_vae.models.dit import DIT_SIZES
from epsilon_vae.models.layers import REMAT_POLICIES
from epsilon_vae.models.unet import UNET_SIZES
from epsilon_vae.training.objective import DISTANCES

WRONG = [
    ("batch_size", 0, "at least 1"),
    ("dtype", "float16", "bfloat16"),
    ("data.source", "imagenet", "photos, folder"),
    ("data.val_split", "train", "a split but train"),
    ("data.val_split", "validation", "photos has 'val'"),
    ("data.train_split", "train2017", "photos has 'train'"),
    ("data.train_split", "", "a split"),
    ("data.held_out", 1.0, "between 0 and 1"),
    ("data.max_bad_share", 0.0, "between 0 and 1"),
    ("seed", 2**32, "below"),
    ("model.encoder.name", "vq", "sd, vqgan, lite"),
    ("init.encoder", "EMA", "ema, raw, none"),
    ("init.discriminator", "ema", "raw, none"),
    ("model.decoder.size", "xxl", "xl, h"),
    ("flow.gamma", -0.6, "positive"),
    ("flow.time_sampling", "normal", "logit_normal"),
    ("loss.lpips_weight", -1.0, "at least 0"),
    ("optim.ema_decay", 1.0, "below 1"),
    ("checkpoint.keep_best", "fid", "none, psnr, ssim, lpips"),
    ("mesh.data", 0, "-1"),
]


@pytest.mark.parametrize(("key", "value", "hint"), WRONG)
def test_bad_value_names_key_value_and_way_out(key, value, hint):
    config = common.get_config()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(ConfigError) as error:
        check(config)
    message = str(error.value)
    assert f"config.{key}" in message and repr(value) in message and hint in message
    assert "\n" not in message


CHOICES = {
    "data.crop": TRAINING_CROPS,
    "eval.crop": EVALUATION_CROPS,
    "flow.spacing": SPACINGS,
    "flow.time_sampling": TIME_SAMPLINGS,
    "loss.distance": DISTANCES,
    "loss.lpips_net": NETS,
    "loss.matching": MATCHINGS,
    "model.decoder.name": {"adm", "ddpm", "dit", *DIRECT_DECODERS},
    "model.decoder.size": {*UNET_SIZES, *DIT_SIZES}.union(
        *(s for _, s in DIRECT_DECODERS.values())
    ),
    "model.discriminator.name": DISCRIMINATORS,
    "model.encoder.name": ENCODERS,
    "model.latent_diffusion.size": DIT_SIZES,
    "model.remat": REMAT_POLICIES,
}


@pytest.mark.parametrize("key", CHOICES)
def test_choices_are_those_of_the_code(key):
    tables = (keys.SHARED, keys.AUTOENCODER, keys.LATENT_DIFFUSION)
    choices = [choice for table in tables if key in table for choice in table[key].choices]
    assert set(choices) == set(CHOICES[key])


def test_every_key_is_described_in_whole_sentences():
    for table in (keys.SHARED, keys.AUTOENCODER, keys.LATENT_DIFFUSION):
        for key, known in table.items():
            text = known.description
            assert text.endswith(".") and "|" not in text and "\n" not in text, key
            assert text[0].isupper() or text[0] in "`γ", key


def test_page_of_keys_is_what_its_script_writes():
    words = "run python -m docs.config_reference"
    assert config_reference.PAGE.read_text() == config_reference.make_page(), words


LATENT_DIFFUSION = [
    ({"data.source": "photos"}, "autoencoder.workdir = '': source 'photos' is images"),
    ({"data.resolution": 72}, "expected a multiple of 16, autoencoder.f times"),
    ({"flow.spacing": "uniform"}, "config.flow.spacing = 'uniform': 'respaced' is for"),
    ({"flow.nfe": 1001}, "config.flow.nfe = 1001: DDPM has 1000 steps"),
    ({"loss.label_dropout": 0.0}, "eval.guidance = 4: guidance needs .*, which are 1000 and 0"),
    ({"model.latent_diffusion.num_classes": 0}, "guidance needs .*, which are 0 and 0.1; take 1"),
    ({"checkpoint.keep_best": "psnr"}, "keep_best = 'psnr': a latent .* no scores .* take 'none'"),
    ({"model.latent_diffusion.patch": 3}, "patch = 3: expected 1, 2 or 4"),
]


@pytest.mark.parametrize(("changes", "words"), LATENT_DIFFUSION)
def test_latent_diffusion_that_makes_no_sense_is_refused(changes, words):
    config = latent_diffusion.get_config()
    check(config)
    config.update_from_flattened_dict(changes)
    with pytest.raises(ConfigError, match=words):
        check(config)


def test_variance_is_of_ddpm_alone():
    config = latent_diffusion.rectified_flow(latent_diffusion.get_config())
    check(config)
    config.model.latent_diffusion.learned_sigma = True
    with pytest.raises(ConfigError, match="learned_sigma = True: only flow.process = 'ddpm'"):
        check(config)


def test_wrong_type_is_refused():
    config = common.get_config()
    with config.unlocked(), config.ignore_type():
        config.seed = "zero"
    with pytest.raises(ConfigError, match="config.seed = 'zero': expected a whole number"):
        check(config)


def test_unknown_key_names_the_nearest():
    config = common.get_config()
    with config.unlocked():
        config.optim.learning_rate = 1e-4
        config.optim.emadecay = 0.9
    with pytest.raises(ConfigError, match="there is no such key"):
        check(config)
    with pytest.raises(ConfigError, match="did you mean optim.ema_decay"):
        check_override("optim.emadecay", "0.9")


def test_keys_of_older_runs_are_read_by_their_names_of_today():
    config = latent_diffusion.get_config()
    old = config.to_dict()
    for group in ("init", "model"):
        old[group]["generator"] = old[group].pop("latent_diffusion")
    del old["data"]["permute_colors"], old["checkpoint"]["keep_best"]
    assert to_json(from_dict(old)) == to_json(config)
    assert not list(differences(from_dict(old), config))
    check(from_dict(old))


@pytest.mark.parametrize("key", ["init.generator", "model.generator.size"])
def test_override_of_an_older_name_is_told_the_new_one(key):
    new = key.replace("generator", "latent_diffusion")
    with pytest.raises(ConfigError, match=f"config.{key} = 'xl': .* it is called config.{new} now"):
        check_override(key, "xl")


def test_missing_key_is_named():
    config = common.get_config()
    with config.unlocked():
        del config.loss.matching
    with pytest.raises(ConfigError, match="config.loss.matching is missing"):
        check(config)


@pytest.mark.parametrize(
    ("key", "text"), [("num_steps", "1e6"), ("optim.lr", "fast"), ("data.flip", "maybe")]
)
def test_unreadable_override_is_refused(key, text):
    with pytest.raises(ConfigError, match=f"config.{key} = '{text}'"):
        check_override(key, text)


def test_readable_overrides_pass():
    check_override("num_steps", "1000000")
    check_override("optim.lr", "3e-4")
    check_override("data.flip", "false")


def test_batch_must_divide_over_devices_and_accumulation():
    config = common.get_config()
    config.batch_size = 20
    config.optim.accumulate = 2
    check(config, num_devices=2)
    with pytest.raises(ConfigError, match="config.batch_size = 20: .* 24 would do"):
        check(config, num_devices=4)


def test_image_size_must_suit_the_networks():
    config = tiny.get_config()
    config.data.resolution = 66
    with pytest.raises(ConfigError, match="config.data.resolution = 66: .* 64 would do"):
        build_networks(config)


def test_encoder_names_its_factors():
    config = common.get_config()
    config.model.encoder.f = 12
    with pytest.raises(ConfigError, match="config.model.encoder.f = 12: .* 8, 16, 32"):
        build_networks(config)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("flow.nfe", 3, "decodes in 1"),
        ("loss.matching", "trajectory", "no noisy image to match with; take 'standard'"),
        ("flow.process", "rectified_flow", "decoder.name = 'vae' gives the image itself"),
        ("model.decoder.name", "adm", "decoder.name = 'adm' denoises; 'direct' is for vae, sd"),
        ("model.decoder.conditioning", "adagn", "only decoder.name = 'adm' has AdaGN"),
        ("model.decoder.input_skip", True, "decoder.name = 'vae' has no noisy input"),
    ],
)
def test_decoder_without_noise_has_nothing_of_a_diffusion(key, value, words):
    config = common.vae("b")
    config.update_from_flattened_dict({key: value})
    with pytest.raises(ConfigError) as error:
        check(config)
        build_networks(config)
    assert words in str(error.value)


def test_decoder_names_its_sizes():
    config = common.vae("h")
    config.model.decoder.name = "sd"
    with pytest.raises(
        ConfigError, match="config.model.decoder.size = 'h': .*'sd' has micro, tiny, m"
    ):
        build_networks(config)


def test_dit_has_no_adagn_and_sizes_of_its_own():
    config = common.dit_decoder("b")
    config.model.decoder.conditioning = "adagn"
    with pytest.raises(ConfigError, match="only decoder.name = 'adm' has AdaGN"):
        build_networks(config)
    with pytest.raises(ConfigError, match="size = 'h': .*'dit' has micro, tiny, s, b, l, xl"):
        build_networks(common.dit_decoder("h"))
    with pytest.raises(ConfigError, match="config.model.decoder.patch = 5: expected 4 or 8"):
        check(common.dit_decoder("b", 5))
    config = common.dit_decoder("b", 8)
    config.model.encoder.f, config.data.resolution = 4, 132
    with pytest.raises(ConfigError, match="take multiples of 8"):
        build_networks(config)


def test_omni_has_no_levels_and_one_factor():
    config = common.omni_vae()
    config.model.decoder.name = "sd"
    with pytest.raises(ConfigError, match="'sd': has the encoder's levels, .*'omni' would do"):
        build_networks(config)
    config.model.encoder.f = 16
    with pytest.raises(ConfigError, match="encoder.f = 16: encoder omni has f of 8"):
        build_networks(config)


def test_mesh_shape_fills_what_is_left():
    axes = {"data": -1, "fsdp": 2, "space": 1}
    assert mesh_shape(axes, 8) == {"data": 4, "fsdp": 2, "space": 1}
    with pytest.raises(ConfigError, match="does not divide 3 devices"):
        mesh_shape(axes, 3)
    with pytest.raises(ConfigError, match="only one axis"):
        mesh_shape({"data": -1, "fsdp": -1, "space": 1}, 8)


def test_space_divides_the_rows():
    config = common.get_config()
    config.mesh.update({"data": 1, "space": -1})
    check(config, num_devices=4)
    with pytest.raises(ConfigError, match="config.mesh.space = -1: the 3 devices must divide the"):
        check(config, num_devices=3)


def test_init_from_takes_something():
    config = common.get_config()
    config.init_from = "runs/first"
    config.init.update({"encoder": "none", "decoder": "none"})
    check(config)
    config.loss.adv_weight = 0.0  # no discriminator here
    with pytest.raises(
        ConfigError, match="config.init_from = 'runs/first': nothing would be taken"
    ):
        check(config)
    config.loss.adv_weight = 0.5
    config.init.discriminator = "none"
    with pytest.raises(ConfigError, match="set config.init.encoder or .* or leave init_from empty"):
        check(config)


def test_frozen_encoder_comes_from_another_run():
    config = common.get_config()
    config.model.encoder.frozen = True
    words = "config.model.encoder.frozen = True: .* config.init_from, with config.init.encoder"
    with pytest.raises(ConfigError, match=words):
        check(config)
    config.init_from = "runs/first"
    check(config)
    config.init.encoder = "none"
    with pytest.raises(ConfigError, match=words):
        check(config)


def test_differences_name_key_and_both_values():
    old, new = common.get_config(), common.get_config()
    new.optim.lr = 3e-4
    assert list(differences(old, new)) == ["optim.lr: 0.0001 -> 0.0003"]
