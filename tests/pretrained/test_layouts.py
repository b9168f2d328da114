"""Names and shapes of other projects' weights, against lists that their own code gave.

The lists of `tests/golden/state_dict_*.txt` are the state dicts of diffusers' AutoencoderKL and
VQModel, taming-transformers' VQGAN, latent-diffusion's KL f 8 and LlamaGen's VQ-16, as their public
classes make them.
"""

import jax
import numpy as np
import pytest
from flax import traverse_util

from configs import common
from epsilon_vae.models.build import build_networks
from epsilon_vae.pretrained import layouts
from epsilon_vae.pretrained.layouts import DIFFUSERS, LATENT_DIFFUSION, LLAMAGEN
from epsilon_vae.pretrained.public_config import public_config
from epsilon_vae.pretrained.state_dicts import detect, select
from tests.golden_params import GOLDEN

CASES = {
    "diffusers_sd_vae": (DIFFUSERS, common.sd_vae()),
    "diffusers_vqgan_f16": (DIFFUSERS, common.vqgan()),
    "latent_diffusion_kl_f8": (LATENT_DIFFUSION, common.sd_vae()),
    "taming_vqgan_f16": (LATENT_DIFFUSION, common.vqgan()),
    "llamagen_vq16": (LLAMAGEN, common.llamagen()),
}


def read_shapes(name: str) -> dict[str, tuple[int, ...]]:
    lines = (GOLDEN / f"state_dict_{name}.txt").read_text().splitlines()
    pairs = (line.split(" ") for line in lines)
    return {key: tuple(map(int, shape.split("x"))) for key, shape in pairs}


def zeros(config) -> dict[str, np.ndarray]:
    """Our parameters of a config by path, without their memory."""
    networks = build_networks(config)
    shapes = jax.eval_shape(lambda key: networks.init(key, 128), jax.random.key(0))
    flat = traverse_util.flatten_dict(shapes, sep="/")
    return {path: np.broadcast_to(np.float32(0), x.shape) for path, x in flat.items()}


@pytest.mark.parametrize("name", CASES)
def test_names_and_shapes_are_theirs(name):
    layout, config = CASES[name]
    theirs = read_shapes(name)
    arrays = {key: np.broadcast_to(0, shape) for key, shape in theirs.items()}
    assert detect(arrays) is layout
    told = public_config(layout, arrays)
    for part in ("encoder", "decoder", "bottleneck"):
        assert told.model[part].to_dict() == config.model[part].to_dict()
    ours = {key: array.shape for key, array in layout.state_dict(zeros(config)).items()}
    assert ours == {own: theirs[name] for name, own in select(theirs).items()}


def vq_f8():
    config = common.vqgan(8)
    config.model.encoder.n_z = config.model.bottleneck.vq_channels = 4
    return config


@pytest.mark.parametrize(
    ("layout", "config"),
    [
        (DIFFUSERS, common.sd_vae(32)),
        (LATENT_DIFFUSION, vq_f8()),
        (LLAMAGEN, common.llamagen(8)),
        (DIFFUSERS, common.asym_vae("xl")),
    ],
    ids=["sd_vae_f32", "vq_f8", "llamagen_vq8", "asym_vae_xl"],
)
def test_a_config_is_told_from_its_weights(layout, config):
    state = layout.state_dict(zeros(config))
    expected = config.to_dict()
    expected["data"]["resolution"] = 256  # which public weights are trained at
    assert public_config(detect(state), state).to_dict() == expected


@pytest.mark.parametrize(
    ("layout", "names"),
    [
        (DIFFUSERS, ("down_blocks.1.resnets.0", "up_blocks.0.resnets.2", "up_blocks.3.resnets.0")),
        (LATENT_DIFFUSION, ("down.1.block.0", "up.3.block.2", "up.0.block.0")),
        (LLAMAGEN, ("conv_blocks.1.res.0", "conv_blocks.0.res.2", "conv_blocks.3.res.0")),
    ],
    ids=lambda x: getattr(x, "title", ""),
)
def test_levels_of_the_decoder_are_counted_as_there(layout, names):
    """Shapes alone would not tell: two levels of SD-VAE have 512 channels."""
    for path, name in zip(
        ("encoder/encoder/level1_block0", "decoder/level3_block2", "decoder/level0_block0"),
        names,
        strict=True,
    ):
        params = zeros(common.sd_vae())
        params[f"{path}/conv1/bias"] = marked = np.ones(params[f"{path}/conv1/bias"].shape)
        state = layout.state_dict(params)
        [found] = [key for key, array in state.items() if array.base is marked or array is marked]
        assert found == f"{path.split('/')[0]}.{name}.conv1.bias"


@pytest.mark.parametrize("layout", layouts.LAYOUTS, ids=lambda layout: layout.title)
def test_the_way_back_is_the_inverse(layout):
    random = np.random.default_rng(0)
    config = common.llamagen()
    config.model.bottleneck.num_codes = 8
    shapes = {path: x.shape for path, x in zeros(config).items() if "block" not in path}
    params = {path: random.standard_normal(shape, np.float32) for path, shape in shapes.items()}
    state = {name: array.astype(np.float16) for name, array in layout.state_dict(params).items()}
    back = layout.parameters(state, shapes)
    assert sorted(back) == sorted(params)
    for path, array in back.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, params[path].astype(np.float16).astype(np.float32))


def test_attention_is_split_by_query_key_and_value():
    """Against the products themselves: x W for our kernel, W' x for PyTorch's weights."""
    random = np.random.default_rng(0)
    x, kernel = random.standard_normal(4), random.standard_normal((4, 12))
    for layout, names in ((DIFFUSERS, ("to_q", "to_k", "to_v")), (LLAMAGEN, ("q", "k", "v"))):
        state = layout.network_state_dict("encoder", {"middle_attention/qkv/kernel": kernel})
        products = [
            array.reshape(4, 4) @ x
            for part in names
            for name, array in state.items()
            if name.endswith(f".{part}.weight")
        ]
        np.testing.assert_allclose(np.concatenate(products), x @ kernel)


def test_decoder_that_takes_a_mask():
    """Asym-VAE's, of diffusers' AsymmetricAutoencoderKL."""
    state = DIFFUSERS.state_dict({"decoder/known/conv3/kernel": np.ones((4, 4, 2, 8))})
    [(name, array)] = state.items()
    assert name == "decoder.condition_encoder.layers.3.weight" and array.shape == (8, 2, 4, 4)


def test_old_names_of_diffusers():
    shape = {"encoder/encoder/middle_attention/out/bias": (2,)}
    old = {"encoder.mid_block.attentions.0.proj_attn.bias": np.ones(2)}
    assert DIFFUSERS.parameters(old, shape)["encoder/encoder/middle_attention/out/bias"].sum() == 2


def test_what_does_not_fit_is_counted_and_named():
    shapes = {f"decoder/level0_block{i}/conv1/bias": (2,) for i in range(5)}
    state = LATENT_DIFFUSION.state_dict({path: np.ones(2) for path in shapes})
    state["decoder.up.0.block.4.conv1.bias"] = np.ones(3)
    for i in range(4):
        del state[f"decoder.up.0.block.{i}.conv1.bias"]
    state["decoder.up.0.attn.0.q.bias"] = np.ones(2)
    with pytest.raises(ValueError) as error:
        LATENT_DIFFUSION.parameters(state, shapes)
    assert str(error.value) == (
        "4 missing: decoder.up.0.block.0.conv1.bias, decoder.up.0.block.1.conv1.bias, "
        "decoder.up.0.block.2.conv1.bias and 1 more; 1 unknown: decoder.up.0.attn.0.q.bias; "
        "1 of another shape: decoder.up.0.block.4.conv1.bias (3,), expected (2,)"
    )
