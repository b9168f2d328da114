"""Runs made of diffusers' weights do what diffusers does, and go back to it."""

import functools

import jax
import numpy as np
import pytest
from flax import traverse_util

from configs import common
from epsilon_vae import restore
from epsilon_vae.conversion import export_weights, import_weights
from epsilon_vae.models.build import ENCODERS, build_networks
from epsilon_vae.models.decoder import SD_SIZES
from epsilon_vae.models.encoder import SDEncoder
from epsilon_vae.pretrained.layouts import DIFFUSERS, LATENT_DIFFUSION
from epsilon_vae.pretrained.weight_file import read_weights
from tests import golden_params
from tests.parity.requirements import require

require("diffusers")
import diffusers  # noqa: E402
import torch  # noqa: E402
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint  # noqa: E402

SMALL = {"channels": 32, "groups": 16}
MULTIPLIERS = (1, 2, 2, 4)


@pytest.fixture
def small_networks(monkeypatch):
    """The encoders of SD-VAE and VQGAN at 32 channels, decoders to match as size 'tiny'."""
    for name, has_attention in (("sd", False), ("vqgan", True)):
        encoder = functools.partial(SDEncoder, blocks=1, last_attention=has_attention, **SMALL)
        monkeypatch.setitem(ENCODERS, name, (encoder, {8: MULTIPLIERS}))
    monkeypatch.setitem(SD_SIZES, "tiny", SMALL | {"blocks": 2})


def shrink(config):
    config.model.decoder.size = "tiny"
    config.model.discriminator.channels = 32
    config.data.resolution = 32
    config.dtype = "float32"
    return config


def theirs(kind: type, attention: str = "", **options):
    """A small network of diffusers with random weights, its norms' too."""
    torch.manual_seed(0)
    network = kind(
        block_out_channels=[32 * m for m in MULTIPLIERS],
        down_block_types=["DownEncoderBlock2D"] * 3 + [f"{attention}DownEncoderBlock2D"],
        up_block_types=[f"{attention}UpDecoderBlock2D"] + ["UpDecoderBlock2D"] * 3,
        norm_num_groups=16,
        **options,
    ).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network


def images() -> np.ndarray:
    random = np.random.RandomState(1)
    return random.uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)


def channels_first(x) -> torch.Tensor:
    return torch.tensor(np.asarray(x)).permute(0, 3, 1, 2)


def channels_last(x: torch.Tensor) -> np.ndarray:
    return x.detach().permute(0, 2, 3, 1).numpy()


def assert_same_state(one, other) -> None:
    one, other = one.state_dict(), other.state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_autoencoder_kl(small_networks, tmp_path):
    """Encoded, decoded, the gradient of both; and loaded by diffusers again."""
    network = theirs(diffusers.AutoencoderKL)
    network.save_pretrained(tmp_path / "theirs")
    config = shrink(common.sd_vae())
    imported = import_weights(str(tmp_path / "theirs"), str(tmp_path / "run"), config)
    assert imported.title == "diffusers" and not imported.left_out
    factor = imported.config.model.bottleneck.scaling_factor
    assert factor == network.config.scaling_factor == 0.18215
    ours, x = restore(str(tmp_path / "run")), images()
    inputs = channels_first(x).requires_grad_()
    z = network.encode(inputs).latent_dist.mode()
    output = network.decode(z).sample
    projection = golden_params.projection(x.shape)
    output.backward(channels_first(projection))

    def reconstruct(batch):
        latents = ours.networks.encode(ours.params, batch)
        return ours.networks.predict(ours.params, batch, t=np.zeros(2), latents=latents), latents

    output_here, pullback, z_here = jax.vjp(jax.jit(reconstruct), x, has_aux=True)
    [gradient] = pullback(projection)
    golden_params.assert_close(
        {"latents": z_here, "output": output_here, "images": gradient},
        {
            "latents": channels_last(z),
            "output": channels_last(output),
            "images": channels_last(inputs.grad),
        },
    )
    golden_params.assert_close(
        {"latents": ours.encode(x), "images": ours.decode(z_here)},
        {"latents": channels_last(z), "images": channels_last(output.clamp(-1, 1))},
    )
    export_weights(str(tmp_path / "run"), str(tmp_path / "back"), layout="diffusers")
    assert_same_state(network, diffusers.AutoencoderKL.from_pretrained(tmp_path / "back"))


def test_vq_model(small_networks, tmp_path):
    """Of a file of torch; its codes, and the image of them."""
    network = theirs(
        diffusers.VQModel,
        "Attn",
        latent_channels=32,
        num_vq_embeddings=64,
        vq_embed_dim=4,
    )
    with torch.no_grad():
        network.quantize.embedding.weight.normal_()
    torch.save(network.state_dict(), tmp_path / "theirs.bin")
    config = shrink(common.vqgan(8))
    config.model.encoder.n_z = 4
    config.model.bottleneck.update({"num_codes": 64, "vq_channels": 32})
    import_weights(str(tmp_path / "theirs.bin"), str(tmp_path / "run"), config)
    ours, x = restore(str(tmp_path / "run")), images()
    with torch.no_grad():
        codes = network.quantize(network.encode(channels_first(x)).latents)[0]
        output = network(channels_first(x)).sample
    golden_params.assert_close(
        {"codes": ours.encode(x), "images": ours.decode(ours.encode(x))},
        {"codes": channels_last(codes), "images": channels_last(output.clamp(-1, 1))},
    )
    export_weights(str(tmp_path / "run"), str(tmp_path / "back"), layout="diffusers")
    assert_same_state(network, diffusers.VQModel.from_pretrained(tmp_path / "back"))


def test_latent_diffusions_names_as_diffusers_converts_them(small_networks, tmp_path):
    """diffusers' own converter, which it has for Stable Diffusion's checkpoints."""
    network = theirs(diffusers.AutoencoderKL)
    network.save_pretrained(tmp_path / "theirs")
    arrays, *_ = read_weights(str(tmp_path / "theirs"))
    networks = build_networks(shrink(common.sd_vae()))
    shapes = jax.eval_shape(lambda key: networks.init(key, 32), jax.random.key(0))
    shapes = {k: x.shape for k, x in traverse_util.flatten_dict(shapes, sep="/").items()}
    state = LATENT_DIFFUSION.state_dict(DIFFUSERS.parameters(arrays, shapes))
    tensors = {name: torch.tensor(array) for name, array in state.items()}
    converted = convert_ldm_vae_checkpoint(tensors, network.config)
    assert converted.keys() == arrays.keys()
    for name, tensor in converted.items():
        np.testing.assert_array_equal(tensor.numpy(), arrays[name], err_msg=name)
