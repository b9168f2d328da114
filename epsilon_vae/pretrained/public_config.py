"""Configs of others' autoencoders: weights say the network, `config.json` the factors."""

import copy
import importlib
import re
from collections.abc import Mapping
from typing import Any

import ml_collections

from epsilon_vae.pretrained.layouts import LLAMAGEN, Arrays, Layout
from epsilon_vae.pretrained.weight_file import BY_CHANNEL
from epsilon_vae.pretrained.weights import WeightsError

# Diffusers' AutoencoderKL has it where its config.json has none.
DEFAULT_SCALING_FACTOR = 0.18215
MAX_LEVELS = 10


def public_config(layout: Layout, state: Arrays) -> ml_collections.ConfigDict:
    """The config of `configs/` that has the network of an autoencoder's weights.

    Shapes are told from a few of the weights; whether all fit it is `Layout.parameters`' to say.

    Raises:
      ValueError: what tells the network is missing.
      ModuleNotFoundError: there is no `configs/` where this runs.
    """
    common = importlib.import_module("configs.common")
    found = [re.match(rf"{re.escape(layout.mark)}(\d+)\.(att)?", name) for name in state]
    attention = {int(x[1]) for x in found if x and x[2]}
    last = max((int(x[1]) for x in found if x), default=MAX_LEVELS)
    if last >= MAX_LEVELS:
        raise ValueError(f"{layout.mark}* are not the levels of a known encoder")
    network = "vqgan" if last in attention else "sd"
    overrides = {"model.encoder.name": network, "model.decoder.name": network}
    overrides["data.resolution"] = 256  # that public weights are trained at, or more
    if "quantize.embedding.weight" in state:
        num_codes, n_z = _shape(state, "quantize.embedding.weight")[:2]
        make = common.llamagen if layout is LLAMAGEN else common.vqgan
        config = make(2**last)
        overrides |= {
            "model.encoder.n_z": n_z,
            "model.bottleneck.num_codes": num_codes,
            "model.bottleneck.vq_channels": _shape(state, "quant_conv.weight")[1],
        }
    else:
        overrides |= {
            "model.encoder.n_z": _shape(state, "encoder.conv_out.weight")[0] // 2,
            "model.bottleneck.kl_convs": "quant_conv.weight" in state,
        }
        config = common.sd_vae(2**last)
    if any(name.startswith("decoder.condition_encoder.") for name in state):
        config = common.asym_vae("l" if _shape(state, "decoder.conv_out.weight")[1] < 256 else "xl")
        del overrides["model.encoder.name"], overrides["model.decoder.name"]
    config.update_from_flattened_dict(overrides)
    return config


def _shape(state: Arrays, name: str) -> tuple[int, ...]:
    shape = state[name].shape if name in state else ()
    if len(shape) < 2 or 0 in shape:
        raise ValueError(f"{name} is missing, or has the shape {shape}")
    return shape


def with_factors(
    config: ml_collections.ConfigDict, described: Mapping[str, Any]
) -> ml_collections.ConfigDict:
    """A config with the factors of diffusers' `config.json`, unless it has its own.

    Raises:
      WeightsError: factors that are no numbers.
    """
    is_kl = described.get("_class_name") in ("AutoencoderKL", "AsymmetricAutoencoderKL")
    by_channel = any(described.get(name) for name in BY_CHANNEL)
    if config.model.bottleneck.scaling_factor or not is_kl or by_channel:
        return config
    config = copy.deepcopy(config)
    try:
        scale = float(described.get("scaling_factor", DEFAULT_SCALING_FACTOR))
        shift = float(described.get("shift_factor") or 0)
    except (TypeError, ValueError, OverflowError) as error:
        raise WeightsError("config.json: scaling_factor or shift_factor is no number") from error
    config.model.bottleneck.scaling_factor = scale
    config.model.bottleneck.shift_factor = shift
    return config
