"""Weights of other projects become runs, and weights of runs become files."""

import json
import pathlib
from typing import NamedTuple

import jax
import ml_collections
import numpy as np
from flax import traverse_util

from epsilon_vae.checkpoint import WEIGHTS, Checkpointer, CheckpointError
from epsilon_vae.config import ConfigError, check_values, from_dict, is_latent_diffusion
from epsilon_vae.data.latents import LatentMetadata
from epsilon_vae.errors import reason
from epsilon_vae.inference import sharing
from epsilon_vae.inference.autoencoder import Autoencoder
from epsilon_vae.inference.restoring import restore
from epsilon_vae.models.autoencoder_model import AutoencoderModel
from epsilon_vae.models.bottleneck import KLBottleneck, VQBottleneck
from epsilon_vae.models.build import latents_shape
from epsilon_vae.models.decoder import SDDecoder
from epsilon_vae.models.encoder import SDEncoder
from epsilon_vae.output import replacing, write_whole
from epsilon_vae.pretrained import dit_layouts, layouts
from epsilon_vae.pretrained.layouts import check_shapes
from epsilon_vae.pretrained.public_config import public_config, with_factors
from epsilon_vae.pretrained.state_dicts import detect
from epsilon_vae.pretrained.weight_file import (
    DIFFUSERS_FILE,
    Weights,
    read_weights,
    safetensors_bytes,
)
from epsilon_vae.pretrained.weights import WeightsError
from epsilon_vae.step_folders import check_is_writable_name, saved_steps
from epsilon_vae.training.build import build_objective

LATENT_SCALE = 0.18215  # latent-diffusion's, of SD-VAE's latents
OURS = sharing.FORMAT  # the layout of our paths too


class NoConfigError(WeightsError):
    """Weights of which no config is known."""


class Imported(NamedTuple):
    """What became a run.

    Attributes:
      title: what the file is, in words.
      config: of the run.
      left_out: what the file has besides, in words; '' for nothing.
      is_measured: whether the file says mean and deviation of the latents.
    """

    title: str
    config: ml_collections.ConfigDict
    left_out: str
    is_measured: bool


def import_weights(
    path: str, workdir: str, config: ml_collections.ConfigDict | None = None
) -> Imported:
    """Makes a run of a file's weights: a checkpoint of step 0, from which training starts.

    It holds encoder and decoder, or the latent diffusion model, and the same as their EMA. Training
    makes the rest from the seed: nothing is compiled here. DiT's public weights are of SD-VAE's
    latents times 0.18215.

    Args:
      path: of weights in our own layout or one of `layouts`, as `find_weights` takes it.
      workdir: of the run, which is made.
      config: of the run, whose `init_from` is not looked at; None for that of the file's metadata,
        or for that of `configs/` which has its network.

    Raises:
      WeightsError: the file cannot be used, or does not fit the config, or none is known.
      ConfigError: the config cannot be used.
      CheckpointError: the folder has checkpoints already, or none can be in it.
      OSError: a file cannot be read or written.
    """
    check_is_writable_name(workdir)
    if steps := saved_steps(workdir):
        raise CheckpointError(f"{workdir}: has checkpoints already, of steps {steps}; name another")
    wants_dit = config is not None and is_latent_diffusion(config)
    weights = read_weights(path, ("transformer",) if wants_dit else ("vae", "vqvae"))
    if config is None:
        config = _own_config(path, weights.metadata) or _public_config(path, weights)
    is_dit = is_latent_diffusion(config)
    if not is_dit:
        config = with_factors(config, weights.config)
    check_values(config)
    objective = build_objective(config)
    key = jax.eval_shape(lambda: jax.random.key(0))
    shapes, _ = jax.eval_shape(objective.init, key)
    data = {"position": 0}
    if is_dit:
        data["latents"] = _public_latents(config)._asdict()
        title, params = _to_generator(path, weights.arrays, config, shapes)
    else:
        if normalization := sharing.normalization_in(weights.metadata, config, path):
            data["normalization"] = normalization._asdict()
        title, params = _to_parameters(path, weights, networks=objective.networks, shapes=shapes)
    params = jax.device_put(params, jax.local_devices()[0])
    checkpointer = Checkpointer(workdir)
    checkpointer.save(0, dict.fromkeys(WEIGHTS, params), data=data, config=config)
    checkpointer.close()
    return Imported(title, config, weights.left_out, is_measured="normalization" in data)


def _own_config(path: str, metadata: dict[str, str]) -> ml_collections.ConfigDict | None:
    """The config in the metadata of a file of ours, None of others; raises `WeightsError`."""
    if metadata.get("format") != OURS or "config" not in metadata:
        return None
    try:
        config = from_dict(json.loads(metadata["config"]))
        check_values(config)
    except Exception as error:  # JSON of any type and depth
        raise NoConfigError(f"{path}: its config is none ({reason(error)})") from error
    return config


def _public_config(path: str, weights: Weights) -> ml_collections.ConfigDict:
    """The config of `configs/` that has the network of others' weights; raises `WeightsError`."""
    try:
        return public_config(detect(weights.arrays), weights.arrays)
    except ModuleNotFoundError as error:
        raise NoConfigError(f"{path}: says no config, and there is no configs/ here") from error
    except ValueError as error:
        raise WeightsError(f"{path}: {error}") from error


def _public_latents(config: ml_collections.ConfigDict) -> LatentMetadata:
    """Metadata of the latents that DiT's public weights generate: `config.autoencoder.workdir`'s.

    Raises:
      ConfigError: it is not named, or no such autoencoder.
      CheckpointError: it is no run.
    """
    workdir = config.autoencoder.workdir
    if not workdir:
        raise ConfigError(
            "config.autoencoder.workdir = '': name the run of the autoencoder that decodes what "
            "these weights generate, imported from SD-VAE's"
        )
    shape, vae = latents_shape(config), restore(workdir)
    f, n_z, bottleneck = vae.networks.f, vae.networks.encoder.n_z, vae.config.model.bottleneck.name
    if (f, n_z, bottleneck) != (config.autoencoder.f, config.autoencoder.n_z, "kl"):
        raise ConfigError(
            f"config.autoencoder.workdir = {workdir!r}: f {f}, n_z {n_z}, bottleneck {bottleneck}; "
            f"the weights are of SD-VAE's latents, f {config.autoencoder.f}, n_z "
            f"{config.autoencoder.n_z}, kl"
        )
    mean, std = [0.0] * shape[-1], [1 / LATENT_SCALE] * shape[-1]
    return LatentMetadata(
        shape=list(shape), mean=mean, std=std, classes=[], provenance=vae.provenance(workdir)
    )


def _to_generator(
    path: str, arrays: dict[str, np.ndarray], config: ml_collections.ConfigDict, shapes: dict
) -> tuple[str, dict]:
    """Returns what the arrays are, in words, and `{'generator': …}`, float32.

    Raises:
      WeightsError: they do not fit.
    """
    flat_shapes = traverse_util.flatten_dict(shapes["generator"], sep="/")
    try:
        layout = dit_layouts.detect(arrays)
        flat = dit_layouts.parameters(
            layout,
            arrays,
            shapes={name: x.shape for name, x in flat_shapes.items()},
            patch=config.model.latent_diffusion.patch,
        )
    except ValueError as error:
        raise WeightsError(
            f"{path} does not fit the config: {error}; DiT-XL/2's public weights are of "
            "configs/dit_xl_2.py with config.model.latent_diffusion.learned_sigma=true"
        ) from error
    _check_finite(path, flat)
    return f"DiT, {layout.title}", {"generator": traverse_util.unflatten_dict(flat, sep="/")}


def _check_finite(path: str, flat: dict[str, np.ndarray]) -> None:
    bad = [name for name, array in flat.items() if not np.isfinite(array).all()]
    if bad:
        raise WeightsError(f"{path}: {len(bad)} weights are not finite, the first is {bad[0]}")


def _to_parameters(
    path: str, weights: Weights, *, networks: AutoencoderModel, shapes: dict
) -> tuple[str, dict]:
    """Returns what the arrays are, in words, and `{'encoder': …, 'decoder': …}`, float32.

    Raises:
      WeightsError: they do not fit.
      ConfigError: the layout is of other networks.
    """
    arrays, layout = weights.arrays, None
    if weights.metadata.get("format") != OURS:
        try:
            layout = detect(arrays)
        except ValueError as error:
            raise WeightsError(f"{path}: {error}") from error
        _check_is_latent_diffusions(networks)
    title = layout.title if layout else OURS
    expected = traverse_util.flatten_dict(shapes, sep="/")
    try:
        if layout is None:
            check_shapes(arrays, expected)
            flat = {name: array.astype(np.float32) for name, array in arrays.items()}
        else:
            flat = layout.parameters(arrays, {name: x.shape for name, x in expected.items()})
    except ValueError as error:
        raise WeightsError(
            f"{path} ({title}) does not fit the config: {error}; take the one of the network that "
            "the file holds, if there is one"
        ) from error
    _check_finite(path, flat)
    return title, traverse_util.unflatten_dict(flat, sep="/")


def export_weights(
    workdir: str, target: str, *, step: int | None = None, layout: str = OURS
) -> Autoencoder:
    """Writes a run's encoder and decoder (EMA) with its config; whole, or not at all.

    Args:
      workdir: of the run.
      target: a safetensors file; in diffusers' layout a folder, as its `from_pretrained` takes one.
      step: of the checkpoint; None for the newest.
      layout: 'epsilon_vae', or 'diffusers' for what it has a network for.

    Returns:
      What was written.

    Raises:
      CheckpointError: no checkpoint there, or not of this step.
      ConfigError: diffusers has no such network.
      WeightsError: there is something at `target` already.
      OutputError: it cannot be written.
    """
    path = pathlib.Path(target)
    if path.exists():
        raise WeightsError(f"{target}: is there already; name another")
    vae = restore(workdir, step)
    known = {"config": vae.config, "step": vae.step, "normalization": vae.normalization}
    if layout == OURS:
        write_whole(path, sharing.weights_bytes(vae.params, **known))
        return vae
    arrays = traverse_util.flatten_dict(jax.device_get(vae.params), sep="/")
    theirs = diffusers_config(vae.networks) | {"sample_size": vae.config.data.resolution}
    if vae.config.model.bottleneck.scaling_factor:
        factors = ("scaling_factor", "shift_factor")
        theirs |= {name: vae.config.model.bottleneck[name] for name in factors}
    metadata = sharing.metadata(**known) | {"format": "pt"}
    content = safetensors_bytes(layouts.DIFFUSERS.state_dict(arrays), metadata)
    with replacing(path) as partial:
        partial.mkdir()
        (partial / "config.json").write_text(json.dumps(theirs, indent=2) + "\n")
        (partial / DIFFUSERS_FILE).write_bytes(content)
    return vae


def _check_is_latent_diffusions(networks: AutoencoderModel) -> None:
    """Raises `ConfigError` unless they are those that other projects have."""
    encoder = getattr(networks.encoder, "encoder", None)
    if not isinstance(encoder, SDEncoder) or not isinstance(networks.decoder, SDDecoder):
        raise ConfigError(
            "config.model: latent diffusion's networks alone have other projects' layouts: those "
            "of configs/sd_vae.py, vqgan.py and llamagen.py"
        )


def diffusers_config(networks: AutoencoderModel) -> dict:
    """The `config.json` of the `AutoencoderKL` or `VQModel` that is our networks.

    Raises:
      ConfigError: diffusers has no such network.
    """
    _check_is_latent_diffusions(networks)
    bottleneck, encoder, decoder = networks.encoder, networks.encoder.encoder, networks.decoder
    widths = [(x.channels, x.multipliers, x.groups) for x in (encoder, decoder)]
    if widths[0] != widths[1] or decoder.blocks != encoder.blocks + 1:
        raise ConfigError(
            "config.model.decoder.size: diffusers' decoders mirror their encoder; take m, SD-VAE's"
        )
    plain = len(encoder.multipliers) - 1
    down, up = ("Attn" if x.last_attention else "" for x in (encoder, decoder))
    config = {
        "down_block_types": ["DownEncoderBlock2D"] * plain + [f"{down}DownEncoderBlock2D"],
        "up_block_types": [f"{up}UpDecoderBlock2D"] + ["UpDecoderBlock2D"] * plain,
        "block_out_channels": [encoder.channels * x for x in encoder.multipliers],
        "layers_per_block": encoder.blocks,
        "norm_num_groups": encoder.groups,
    }
    if isinstance(bottleneck, KLBottleneck):
        return config | {
            "_class_name": "AutoencoderKL",
            "latent_channels": bottleneck.n_z,
            "use_quant_conv": bottleneck.has_conv,
            "use_post_quant_conv": bottleneck.has_conv,
        }
    assert isinstance(bottleneck, VQBottleneck)
    if bottleneck.is_normalized:
        raise ConfigError(
            "config.model.bottleneck.normalized_codes = True: diffusers' VQModel has no codes of "
            "length 1; the layout epsilon_vae takes them"
        )
    return config | {
        "_class_name": "VQModel",
        "latent_channels": decoder.conv_channels,
        "num_vq_embeddings": bottleneck.num_codes,
        "vq_embed_dim": bottleneck.n_z,
    }
