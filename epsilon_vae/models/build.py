"""Builds networks and processes from a config: here it becomes named arguments."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
import ml_collections

from epsilon_vae.config import ConfigError
from epsilon_vae.diffusion.path import DDPM, Direct, Process, RectifiedFlow
from epsilon_vae.models.autoencoder_model import AutoencoderModel
from epsilon_vae.models.bottleneck import KLBottleneck, VQBottleneck
from epsilon_vae.models.decoder import ASYM_SIZES, SD_SIZES, VAE_SIZES, SDDecoder, VAEDecoder
from epsilon_vae.models.dit import DIT_SIZES, ClassDiT, DiT, DiTDecoder
from epsilon_vae.models.encoder import LiteEncoder, SDEncoder
from epsilon_vae.models.input_skip import InputSkip
from epsilon_vae.models.latent_diffusion import LatentDiffusion
from epsilon_vae.models.litevae import LiteVAEEncoder
from epsilon_vae.models.omni import OMNI_SIZES, OmniDecoder, OmniEncoder
from epsilon_vae.models.unet import DDPM_UNET, UNET_SIZES, UNet

# Module and sizes of each decoder that gives the image itself.
DIRECT_DECODERS = {
    "vae": (VAEDecoder, VAE_SIZES),
    "sd": (SDDecoder, SD_SIZES),
    "vqgan": (functools.partial(SDDecoder, last_attention=True), SD_SIZES),
    "asym": (functools.partial(SDDecoder, takes_mask=True), ASYM_SIZES),
    "omni": (OmniDecoder, OMNI_SIZES),
}


def _litevae(
    extractor: tuple[int, ...], aggregator: tuple[int, ...]
) -> tuple[Callable[..., nn.Module], dict[int, tuple[int, ...]]]:
    """LiteVAE's encoder of these widths; the multipliers are those of its decoder, SD-VAE's."""

    def make(n_z: int, multipliers: tuple[int, ...], **common) -> nn.Module:
        del multipliers
        return LiteVAEEncoder(n_z=n_z, extractor=extractor, aggregator=aggregator, **common)

    return make, {8: (1, 2, 4, 4)}


# Channel multipliers by downsampling factor. sd f 8 and lite f 16 are the paper's, the rest ours;
# omni has no levels.
ENCODERS = {
    "sd": (
        SDEncoder,
        {8: (1, 2, 4, 4), 16: (1, 1, 2, 4, 4), 32: (1, 1, 2, 2, 4, 4)},
    ),
    "vqgan": (  # and LlamaGen's
        functools.partial(SDEncoder, last_attention=True),
        {8: (1, 2, 2, 4), 16: (1, 1, 2, 2, 4)},
    ),
    "lite": (
        LiteEncoder,
        {4: (1, 2, 4), 8: (1, 2, 2, 4), 16: (1, 1, 2, 2, 4), 32: (1, 1, 2, 2, 4, 4)},
    ),
    "litevae_s": _litevae((16, 32, 32), (16, 32, 32)),
    "litevae_b": _litevae((32, 64, 96), (32, 64, 96)),
    "litevae_m": _litevae((64, 128, 256), (32, 64, 96)),
    "litevae_l": _litevae((64, 128, 256), (64, 128, 256)),
    "omni": (OmniEncoder, {8: None}),
    "micro": (
        functools.partial(LiteEncoder, channels=16, blocks=0, groups=8),
        {4: (1, 1, 1), 8: (1, 1, 1, 1)},
    ),
    "tiny": (
        functools.partial(LiteEncoder, channels=32, blocks=1, groups=8),
        {4: (1, 2, 2), 8: (1, 2, 2, 2)},
    ),
    "small": (functools.partial(LiteEncoder, channels=32, blocks=1, groups=8), {8: (1, 2, 2, 4)}),
}


def build_networks(config: ml_collections.ConfigDict) -> AutoencoderModel:
    """Encoder and decoder.

    Raises:
      ConfigError: parts that do not go together, or that cannot take `data.resolution`.
    """
    encoder = config.model.encoder
    make_encoder, multipliers = ENCODERS[encoder.name]
    if encoder.f not in multipliers:
        factors = ", ".join(map(str, multipliers))
        raise ConfigError(
            f"config.model.encoder.f = {encoder.f}: encoder {encoder.name} has f of {factors}"
        )
    common = {"dtype": jnp.dtype(config.dtype), "remat": config.model.remat}
    decoder, stride = _decoder(config, multipliers[encoder.f], common)
    if encoder.name == "omni":
        make_encoder = functools.partial(make_encoder, patch=encoder.f, **common)
    else:
        make_encoder = functools.partial(make_encoder, multipliers=multipliers[encoder.f], **common)
    networks = AutoencoderModel(
        encoder=_with_bottleneck(config, make_encoder),
        decoder=decoder,
        f=encoder.f,
        decoder_stride=stride,
    )
    multiple = networks.multiple
    if config.data.resolution % multiple:
        near = max(multiple, round(config.data.resolution / multiple) * multiple)
        raise ConfigError(
            f"config.data.resolution = {config.data.resolution}: the networks take multiples of "
            f"{multiple}; {near} would do"
        )
    return networks


def _with_bottleneck(
    config: ml_collections.ConfigDict, make_encoder: Callable[[int], nn.Module]
) -> nn.Module:
    """The encoder, made for as many channels as its bottleneck takes, in that bottleneck."""
    bottleneck, n_z = config.model.bottleneck, config.model.encoder.n_z
    if bottleneck.name == "kl":
        return KLBottleneck(
            encoder=make_encoder(n_z=2 * n_z),
            n_z=n_z,
            weight=bottleneck.kl_weight,
            has_conv=bottleneck.kl_convs,
        )
    if bottleneck.name == "vq":
        return VQBottleneck(
            encoder=make_encoder(n_z=bottleneck.vq_channels),
            num_codes=bottleneck.num_codes,
            n_z=n_z,
            commitment=bottleneck.commitment,
            is_normalized=bottleneck.normalized_codes,
            is_legacy=bottleneck.legacy_commitment,
        )
    return make_encoder(n_z=n_z)


def _decoder(
    config: ml_collections.ConfigDict, multipliers: tuple[int, ...] | None, common: dict
) -> tuple[nn.Module, int]:
    """The decoder, and what its images' height and width must be multiples of.

    Args:
      config: whole.
      multipliers: of the encoder's channels; None where it has no levels.
      common: arguments of every network.
    """
    decoder = config.model.decoder
    if decoder.conditioning == "adagn" and decoder.name != "adm":
        raise ConfigError(
            "config.model.decoder.conditioning = 'adagn': only decoder.name = 'adm' has AdaGN"
        )
    if (config.flow.process == "direct") != (decoder.name in DIRECT_DECODERS):
        denoises = "gives the image itself" if decoder.name in DIRECT_DECODERS else "denoises"
        raise ConfigError(
            f"config.flow.process = {config.flow.process!r}: decoder.name = {decoder.name!r} "
            f"{denoises}; 'direct' is for {', '.join(DIRECT_DECODERS)}, and only for them"
        )
    if decoder.input_skip and decoder.name in DIRECT_DECODERS:
        raise ConfigError(
            f"config.model.decoder.input_skip = True: decoder.name = {decoder.name!r} has no noisy "
            "input; False would do"
        )
    if decoder.name in DIRECT_DECODERS:
        make, sizes = DIRECT_DECODERS[decoder.name]
        if decoder.name == "omni":
            return make(patch=config.model.encoder.f, **_size(decoder, sizes), **common), 1
        if multipliers is None:
            raise ConfigError(
                f"config.model.decoder.name = {decoder.name!r}: has the encoder's levels, and "
                "encoder.name = 'omni' has none; decoder.name = 'omni' would do"
            )
        arguments = _size(decoder, sizes) | {"multipliers": multipliers} | common
        if decoder.name != "vae":
            arguments["conv_channels"] = _post_quant_channels(config)
        return make(**arguments), 1
    network, stride = _denoiser(decoder, common)
    return (InputSkip(network) if decoder.input_skip else network), stride


def _denoiser(decoder: ml_collections.ConfigDict, common: dict) -> tuple[nn.Module, int]:
    """Returns as `_decoder`, for those that denoise."""
    if decoder.name == "dit":
        dit = DiT(**_size(decoder, DIT_SIZES), patch=decoder.patch, out_channels=3, **common)
        return DiTDecoder(dit), decoder.patch
    size = _size(decoder, UNET_SIZES) | (DDPM_UNET if decoder.name == "ddpm" else {})
    unet = UNet(**size, conditioning=decoder.conditioning, **common)
    return unet, 2 ** (len(unet.multipliers) - 1)


def _post_quant_channels(config: ml_collections.ConfigDict) -> int | None:
    bottleneck = config.model.bottleneck
    if bottleneck.name == "vq":
        return bottleneck.vq_channels
    return config.model.encoder.n_z if bottleneck.name == "kl" and bottleneck.kl_convs else None


def _size(decoder: ml_collections.ConfigDict, sizes: dict[str, dict]) -> dict:
    if decoder.size not in sizes:
        raise ConfigError(
            f"config.model.decoder.size = {decoder.size!r}: decoder.name = {decoder.name!r} has "
            f"{', '.join(sizes)}"
        )
    return sizes[decoder.size]


def build_process(config: ml_collections.ConfigDict) -> Process:
    """The diffusion process."""
    if config.flow.process == "ddpm":
        return DDPM()
    if config.flow.process == "direct":
        return Direct()
    return RectifiedFlow(config.flow.gamma, config.flow.normalization)


def build_latent_diffusion(config: ml_collections.ConfigDict) -> LatentDiffusion:
    """A latent diffusion model's network and process."""
    model, n_z = config.model.latent_diffusion, config.autoencoder.n_z
    dit = DiT(
        **DIT_SIZES[model.size],
        patch=model.patch,
        out_channels=2 * n_z if model.learned_sigma else n_z,
        dtype=jnp.dtype(config.dtype),
        remat=config.model.remat,
    )
    if config.flow.process == "ddpm":
        variance = "learned" if model.learned_sigma else "small"
        process = DDPM(is_clipped=False, variance=variance)
    else:
        process = RectifiedFlow(gamma=1.0, normalization="none")
    return LatentDiffusion(ClassDiT(dit, model.num_classes), process)


def latents_shape(config: ml_collections.ConfigDict) -> tuple[int, int, int]:
    """`(h, w, n_z)` of what a latent diffusion model generates."""
    side = config.data.resolution // config.autoencoder.f
    return side, side, config.autoencoder.n_z


def public_normalization(
    config: ml_collections.ConfigDict,
) -> tuple[list[float], list[float]] | None:
    """Mean and deviation by channel that an autoencoder's own factors stand for.

    None where it has none, and latents are to be measured.
    """
    bottleneck, n_z = config.model.bottleneck, config.model.encoder.n_z
    if not bottleneck.scaling_factor:
        return None
    return [float(bottleneck.shift_factor)] * n_z, [1 / bottleneck.scaling_factor] * n_z
