"""Every config that the repository ships is complete, valid and runs."""

import functools
import importlib

import jax
import numpy as np
import pytest

from configs import ablation, common, latent_diffusion
from epsilon_vae import keys
from epsilon_vae.config import check, flatten, is_latent_diffusion
from epsilon_vae.evaluation import paper
from epsilon_vae.models.build import ENCODERS, build_networks
from epsilon_vae.models.litevae import LiteVAEEncoder
from epsilon_vae.models.omni import OMNI_SIZES, OmniEncoder
from epsilon_vae.training.build import build_objective, build_train_step, frozen_inputs
from epsilon_vae.training.flops import parameter_counts
from tests import micro
from tests.helpers import make_training, state_shapes
from tests.processes import ROOT

NO_CONFIGS = ("__init__", "studies")
NAMES = sorted(path.stem for path in (ROOT / "configs").glob("*.py") if path.stem not in NO_CONFIGS)
RUNGS = list(ablation.LADDER)


def load(name: str, *argument: str):
    return importlib.import_module(f"configs.{name}").get_config(*argument)


def test_common_holds_every_key_and_no_other():
    shared, autoencoder, latent = keys.SHARED, keys.AUTOENCODER, keys.LATENT_DIFFUSION
    assert set(flatten(common.get_config())) == {*shared, *autoencoder}
    assert set(flatten(latent_diffusion.get_config())) == {*shared, *latent}
    for key in {*autoencoder} & {*latent}:  # overrides are read before the config is
        assert autoencoder[key].type is latent[key].type


@pytest.mark.parametrize("name", NAMES)
def test_config_is_valid_and_its_networks_take_its_images(name):
    config = load(name)
    check(config)
    counts = parameter_counts(build_objective(config))
    networks = ["generator"] if is_latent_diffusion(config) else ["encoder", "decoder"]
    assert all(counts[network] > 0 for network in networks)


@pytest.mark.parametrize("f", [8, 16, 32])
def test_sd_argument_is_the_downsampling_factor(f):
    config = load("sd_m", str(f))
    networks = build_networks(config)
    images = jax.ShapeDtypeStruct((1, 128, 128, 3), np.float32)
    params = jax.eval_shape(lambda key: networks.init(key, 128), jax.random.key(0))
    latents = jax.eval_shape(networks.encode, params, images)
    assert latents.shape == (1, 128 // f, 128 // f, 4)


def test_second_stage_has_the_state_of_the_first():
    first, second = load("sd_m"), load("sd_m_256")
    assert (first.data.resolution, second.data.resolution) == (128, 256)
    one, other = state_shapes(first), state_shapes(second)
    assert one == other and len(jax.tree.leaves(one.discriminator)) > 10


@pytest.mark.parametrize(
    ("name", "argument", "family", "arguments"),
    [
        ("sd_m", "", "sd", ""),
        ("sd_h", "16", "sd", "h,f=16"),
        ("sd_h", "f=16", "sd", "h,16"),
        ("sd_b_256", "16", "sd", "resolution=256,f=16,size=b"),
        ("lite_xl", "", "lite", "xl"),
        ("vae_l", "8", "vae", "l,f=8"),
        ("litevae_s", "", "litevae", "size=s"),
    ],
)
def test_name_is_its_family_with_arguments(name, argument, family, arguments):
    assert flatten(load(name, argument)) == flatten(load(family, arguments))


@pytest.mark.parametrize(
    ("name", "arguments", "wrong"),
    [
        ("sd", "m,g=16", "g=16"),
        ("sd", "m,f=x", "f=x"),
        ("sd_m", "size=b", "size=b"),
        ("sd_m_256", "8,512", "resolution=256"),
        ("vae_b", "16,8", "8"),
        ("lite", "b,", ""),
    ],
)
def test_arguments_that_a_config_has_not_are_refused(name, arguments, wrong):
    with pytest.raises(ValueError, match=f"cannot take '{wrong}'; its arguments are size"):
        load(name, arguments)


SECOND_STAGE = {
    size: {128: rfid[128], 256: paper.FINETUNED_RFID["sd", 8][size]}
    for size, rfid in paper.RFID["sd", 8].items()
}


@pytest.mark.parametrize(
    ("name", "scores"),
    [("sd", SECOND_STAGE), ("lite", paper.RFID["lite", 16]), ("vae", paper.VAE_RFID)],
)
def test_docstring_has_the_papers_scores(name, scores):
    """A line for each size: its decoder's parameters, then rFID by resolution."""
    lines = map(str.split, importlib.import_module(f"configs.{name}").__doc__.splitlines())
    found = {line[0]: line[1:] for line in lines if line and line[0] in scores}
    for size, rfid in scores.items():
        config = load(name, size)
        count = parameter_counts(build_objective(config))["decoder"]
        assert found[size] == [f"{count / 1e6:.1f}", "M", *(f"{x:.2f}" for x in rfid.values())]


def test_ladder_climbs_from_ddpm_to_the_papers_config():
    baseline, top = load("ablation", "baseline"), load("ablation", "g")
    assert (baseline.flow.process, baseline.model.decoder.name) == ("ddpm", "ddpm")
    assert flatten(top) == flatten(load("lite_b"))
    nfes = [load("ablation", rung).flow.nfe for rung in RUNGS]
    assert nfes == [1000, 100, 50, 50, 10, 5, 5, 3]  # paper, Table 5


def test_unknown_rung_names_the_rungs():
    with pytest.raises(ValueError, match="baseline, a, b, c, d, e, f, g"):
        load("ablation", "h")


def shrink(config):
    """A rung at the small config's size: everything else is the rung's own."""
    small = micro.get_config()
    config.batch_size = 2
    config.dtype = "float32"
    for key in ("data", "model.encoder", "model.discriminator", "optim"):
        config.update_from_flattened_dict(
            {name: value for name, value in flatten(small).items() if name.startswith(key)}
        )
    config.model.decoder.size = "micro"
    config.loss.lpips_net = "alexnet"
    return config


def train_a_little(config, steps: int = 3):
    """Every loss term after the first and the last of a few steps on one batch."""
    training = make_training(config)
    state, history = training.state, []
    for _ in range(steps):
        state, metrics = training.step(state, training.frozen, training.batch)
        history.append({name: float(value) for name, value in metrics.items()})
    return history


@pytest.mark.parametrize("rung", RUNGS)
def test_rung_has_its_terms(rung):
    """Traced, not compiled: a rung that takes no step of its own differs in constants alone."""
    config = shrink(load("ablation", rung))
    step = build_train_step(config)
    batch = step.objective.batch_shapes(2)
    state = state_shapes(config)
    after, metrics = jax.eval_shape(step, state, frozen_inputs(config), batch)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    terms = {"flow"}
    terms |= {"lpips"} if rung >= "d" and rung != "baseline" else set()
    terms |= {"adv", "disc", "r1"} if rung >= "e" and rung != "baseline" else set()
    logged = {name.removeprefix("loss/") for name in metrics if name.startswith("loss/")}
    assert logged == terms


@pytest.mark.parametrize("rung", ["baseline", "b", "d"])
def test_rung_trains(rung):
    """With the GAN, the small config trains in the tests of the step."""
    history = train_a_little(shrink(load("ablation", rung)))
    assert all(np.isfinite(list(metrics.values())).all() for metrics in history)
    # The zero-initialised output makes the first prediction 0: noise prediction starts at E[eps²].
    if rung == "baseline":
        assert history[0]["loss/flow"] == pytest.approx(1.0, abs=0.05)
    assert history[-1]["loss/flow"] < history[0]["loss/flow"] * 1.2


@pytest.mark.parametrize(
    ("config", "terms"),
    [
        (load("vae_b"), {"r1"}),
        (common.sd_vae(), {"kl"}),
        (common.llamagen(), {"vq"}),
        (common.omni_vae(), {"kl"}),
    ],
    ids=["vae", "sd_vae", "llamagen", "omni_vae"],
)
def test_autoencoder_without_noise_trains(config, terms, monkeypatch):
    encoder = config.model.encoder.name
    config = shrink(config)
    if encoder == "omni":
        small = functools.partial(OmniEncoder, **OMNI_SIZES["micro"])
        monkeypatch.setitem(ENCODERS, "omni", (small, {8: None}))
        config.model.encoder.name, config.model.encoder.f = "omni", 8
    else:
        config.model.bottleneck.vq_channels = 32
        config.loss.adv_start_step = config.loss.disc_start_step = 0
    history = train_a_little(config)
    assert all(np.isfinite(list(metrics.values())).all() for metrics in history)
    if encoder == "omni":  # whose first steps lower LPIPS, by a quarter, and not yet L1
        assert history[-1]["loss/lpips"] < 0.9 * history[0]["loss/lpips"]
    else:
        assert history[-1]["loss/reconstruction"] < history[0]["loss/reconstruction"]
    logged = {name.removeprefix("loss/") for name in history[0] if name.startswith("loss/")}
    assert logged == {"reconstruction", "lpips", "adv", "disc"} | terms
    if "vq" in terms:
        assert 0 < history[0]["codes/usage"] <= 1 <= history[0]["codes/perplexity"]


@pytest.mark.parametrize("name", ["lite_dit", "vae_b"])
def test_adaptive_weight_finds_the_last_layer(name):
    """Of decoders that are not trained with it above."""
    config = shrink(load(name))
    config.loss.adaptive_weight = True
    step = build_train_step(config)
    batch = step.objective.batch_shapes(2)
    frozen = frozen_inputs(config)
    _, metrics = jax.eval_shape(step, state_shapes(config), frozen, batch)
    assert "weight/adv" in metrics


def without_multipliers(encoder):
    """Takes a decoder's multipliers too, as every encoder of a config does."""
    return lambda n_z, multipliers, **arguments: encoder(n_z=n_z, **arguments)


@pytest.mark.parametrize("name", ["litevae_s", "asym_vae"])
def test_variant_of_sd_vae_trains(name, monkeypatch):
    """By L1 alone, since LPIPS and GAN are SD-VAE's; LiteVAE with UNets of one level."""
    config = load(name)
    losses = build_objective(config)
    assert losses.distance == "l1" and losses.adversary.gan == "hinge"
    assert losses.perceptual.weight == 1.0
    encoder, config = config.model.encoder, shrink(config.copy_and_resolve_references())
    config.model.encoder.frozen = encoder.frozen
    if name == "litevae_s":
        config.model.encoder.name, config.model.encoder.f = encoder.name, encoder.f
        encoder = functools.partial(LiteVAEEncoder, extractor=(16,), aggregator=(16,))
        monkeypatch.setitem(ENCODERS, name, (without_multipliers(encoder), {8: (1,) * 4}))
    config.loss.lpips_weight = config.loss.adv_weight = 0.0
    config.optim.lr = 1e-3
    history = train_a_little(config)
    assert history[-1]["loss/reconstruction"] < history[0]["loss/reconstruction"]
    assert {"loss/reconstruction", "loss/kl"} <= history[0].keys()


@pytest.mark.parametrize(
    "options",
    [
        {
            "model.decoder.conditioning": "adagn",
            "loss.matching": "step",
            "flow.normalization": "analytic",
            "dtype": "bfloat16",
        },
        {"loss.matching": "standard"},
        {"loss.gan": "relativistic", "model.discriminator.name": "residual"},
        {"model.decoder.name": "dit", "model.remat": "full"},
    ],
)
def test_options_train(options):
    config = shrink(load("ablation", "g"))
    config.update_from_flattened_dict(options)
    history = train_a_little(config, steps=2)
    assert all(np.isfinite(list(metrics.values())).all() for metrics in history)


def test_sd_m_takes_its_real_step():
    """bfloat16, VGG16, 83 M parameters, nothing shrunk but the batch and the crop, to 64 px."""
    config = load("sd_m")
    config.batch_size, config.data.resolution = 1, 64
    training = make_training(config)
    state, metrics = training.step(training.state, training.frozen, training.batch)
    values = {name: float(value) for name, value in metrics.items()}
    assert np.isfinite(list(values.values())).all() and int(state.step) == 1
    # The output starts at 0: the flow loss is the mean square of eps - 0.6 x0.
    expected = 1 + 0.36 * np.mean(training.batch["image"] ** 2)
    assert values["loss/flow"] == pytest.approx(expected, abs=0.02)
