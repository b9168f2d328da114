"""Checks of configs, with one clear line for what is wrong; and what configs are asked.

`configs/common.py` and `configs/latent_diffusion.py` hold the values, `keys.py` what they may be. A
config is an `ml_collections.ConfigDict`; it stops at `models.build` and `training.build`: neither
networks nor losses see one.
"""

import difflib
import functools
import json
import math
from collections.abc import Iterable

import ml_collections

from epsilon_vae import keys
from epsilon_vae.errors import UserError

# Of the keys that both kinds of config have with other values, the types are the same.
ANY = keys.SHARED | keys.LATENT_DIFFUSION | keys.AUTOENCODER


class ConfigError(UserError):
    """A config that cannot run; the message names the key, the value and what would do."""


def flatten(config: ml_collections.ConfigDict, prefix: str = "") -> dict[str, object]:
    """`{'optim.lr': 1e-4, …}`."""
    flat = {}
    for name, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def is_latent_diffusion(config: ml_collections.ConfigDict) -> bool:
    """Whether it is of a latent diffusion model; else it is of an autoencoder."""
    return "latent_diffusion" in config.get("model", {})


def check_kind(config: ml_collections.ConfigDict, name: str, *, latent_diffusion: bool) -> None:
    """Raises `ConfigError`, which begins with `name`, for a config of the other kind."""
    if is_latent_diffusion(config) != latent_diffusion:
        kinds = ("a latent diffusion model", "an autoencoder")
        found, wanted = kinds[::-1] if latent_diffusion else kinds
        raise ConfigError(f"{name}: is of {found}; name one of {wanted}")


def check_key(key: str, value: object, known: dict[str, keys.Key] = ANY) -> None:
    """Raises `ConfigError` unless `key` exists."""
    if key not in known:
        last = key.split(".")[-1]
        near = [x for x in known if x.split(".")[-1] == last]
        near = near or difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {' or '.join(near)}?" if near else "epsilon_vae/keys.py lists them"
        if keys.current_name(key) != key:
            hint = f"it is called config.{keys.current_name(key)} now"
        raise ConfigError(f"config.{key} = {value!r}: there is no such key; {hint}")


def check_override(key: str, text: str) -> None:
    """Raises `ConfigError` unless `--config.key=text` names a key and its type can be read.

    The range is `check`'s to judge, with the whole config at hand.
    """
    check_key(key, text)
    expected = ANY[key]
    if expected.type is bool:
        readable = text.lower() in ("true", "false")
    else:
        try:
            expected.type(text)
            readable = True
        except ValueError:
            readable = False
    if not readable:
        raise ConfigError(f"config.{key} = {text!r}: expected {expected.expected}")


def check(config: ml_collections.ConfigDict, num_devices: int = 1) -> None:
    """Raises `ConfigError` for a config that cannot run on `num_devices` devices."""
    check_values(config)
    _check_batch(flatten(config), num_devices)


def check_values(config: ml_collections.ConfigDict) -> None:
    """Raises `ConfigError` for a missing or unknown key, or a value out of range."""
    flat = flatten(config)
    known = keys.SHARED | (
        keys.LATENT_DIFFUSION if is_latent_diffusion(config) else keys.AUTOENCODER
    )
    for key, value in flat.items():
        check_key(key, value, known)
    for key, expected in known.items():
        if key not in flat:
            raise ConfigError(f"config.{key} is missing: expected {expected.expected}")
        value = flat[key]
        if not _has_type(value, expected) or not expected.allows(value):
            raise ConfigError(f"config.{key} = {value!r}: expected {expected.expected}")
    _check_source(flat)
    if is_latent_diffusion(config):
        _check_latent_diffusion(flat)
    else:
        _check_init(flat)
        _check_direct(flat)


def check_types(config: ml_collections.ConfigDict) -> None:
    """Raises `ConfigError` for a value of a type that its key cannot have.

    Keys may be missing, or be those of another version.
    """
    for key, value in flatten(config).items():
        if key in ANY and not _has_type(value, ANY[key]):
            raise ConfigError(f"config.{key} = {value!r}: expected {ANY[key].expected}")


def _has_type(value: object, expected: keys.Key) -> bool:
    return type(value) is expected.type or (expected.type is float and type(value) is int)


def _check_source(flat: dict) -> None:
    source = flat["data.source"]
    if source in ("folder", "array_record") and not flat["data.path"]:
        raise ConfigError(
            f"config.data.path = '': source {source!r} needs the folder of train, val"
        )
    splits = {key: flat[key] for key in ("data.train_split", "data.val_split") if key in flat}
    if len(set(splits.values())) < len(splits):
        raise ConfigError(
            f"config.data.val_split = {flat['data.val_split']!r}: expected a split but train, "
            "which is config.data.train_split"
        )
    for (key, value), known in zip(splits.items(), ("train", "val"), strict=False):
        if source in ("photos", "latents") and value != known:
            raise ConfigError(f"config.{key} = {value!r}: {source} has {known!r}")
    if source == "tfds" and not flat["data.tfds_name"]:
        raise ConfigError("config.data.tfds_name = '': source 'tfds' needs one, as imagenet2012")


def _check_init(flat: dict) -> None:
    takes_discriminator = flat["init.discriminator"] != "none" and flat["loss.adv_weight"] > 0
    takes = flat["init.encoder"] != "none" or flat["init.decoder"] != "none" or takes_discriminator
    if flat["init_from"] and not takes:
        raise ConfigError(
            f"config.init_from = {flat['init_from']!r}: nothing would be taken from it; set "
            "config.init.encoder or config.init.decoder to ema or raw, or leave init_from empty"
        )
    if flat["model.encoder.frozen"] and (not flat["init_from"] or flat["init.encoder"] == "none"):
        raise ConfigError(
            "config.model.encoder.frozen = True: random weights would stay as they are; name the "
            "run that has trained ones in config.init_from, with config.init.encoder = ema or raw"
        )


def _check_latent_diffusion(flat: dict) -> None:
    source = flat["data.source"]
    if source != "latents" and not flat["autoencoder.workdir"]:
        raise ConfigError(
            f"config.autoencoder.workdir = '': source {source!r} is images, to be encoded; name "
            "the run of an autoencoder"
        )
    multiple = flat["autoencoder.f"] * flat["model.latent_diffusion.patch"]
    if flat["data.resolution"] % multiple:
        raise ConfigError(
            f"config.data.resolution = {flat['data.resolution']}: expected a multiple of "
            f"{multiple}, autoencoder.f times model.latent_diffusion.patch"
        )
    is_ddpm = flat["flow.process"] == "ddpm"
    for key, ddpms in (("flow.time_sampling", "whole_steps"), ("flow.spacing", "respaced")):
        if (flat[key] == ddpms) != is_ddpm:
            raise ConfigError(
                f"config.{key} = {flat[key]!r}: {ddpms!r} is for flow.process = 'ddpm', and it has "
                "no other"
            )
    if flat["model.latent_diffusion.learned_sigma"] and not is_ddpm:
        raise ConfigError(
            "config.model.latent_diffusion.learned_sigma = True: only flow.process = 'ddpm' has a "
            "variance"
        )
    if is_ddpm and flat["flow.nfe"] > keys.DDPM_STEPS:
        raise ConfigError(f"config.flow.nfe = {flat['flow.nfe']}: DDPM has {keys.DDPM_STEPS} steps")
    check_guidance("config.eval.guidance", flat["eval.guidance"], flat)
    if flat["checkpoint.keep_best"] != "none":
        raise ConfigError(
            f"config.checkpoint.keep_best = {flat['checkpoint.keep_best']!r}: a latent diffusion "
            "model has no scores while it trains; take 'none'"
        )


def check_guidance(name: str, scale: float, flat: dict) -> None:
    """Raises `ConfigError` where a model cannot be guided: it must know labels, and images without.

    Args:
      name: of the setting, for the message.
      scale: of the guidance.
      flat: the latent diffusion model's config, flat.
    """
    classes, dropout = flat["model.latent_diffusion.num_classes"], flat["loss.label_dropout"]
    if scale != 1 and not (classes and dropout):
        raise ConfigError(
            f"{name} = {scale:g}: guidance needs model.latent_diffusion.num_classes and "
            f"loss.label_dropout, which are {classes} and {dropout:g}; take 1, which is none"
        )


def _check_direct(flat: dict) -> None:
    """A decoder without noise has no trajectory for a discriminator to see, and no second step."""
    if flat["flow.process"] != "direct":
        return
    if flat["flow.nfe"] != 1:
        raise ConfigError(
            f"config.flow.nfe = {flat['flow.nfe']}: flow.process = 'direct' decodes in 1"
        )
    if flat["loss.adv_weight"] > 0 and flat["loss.matching"] != "standard":
        raise ConfigError(
            f"config.loss.matching = {flat['loss.matching']!r}: flow.process = 'direct' has no "
            "noisy image to match with; take 'standard'"
        )


def _check_batch(flat: dict, num_devices: int) -> None:
    axes = {axis: flat[f"mesh.{axis}"] for axis in ("data", "fsdp", "space")}
    shape = mesh_shape(axes, num_devices)
    if flat["data.resolution"] % shape["space"]:
        raise ConfigError(
            f"config.mesh.space = {axes['space']}: the {shape['space']} devices must divide the "
            f"{flat['data.resolution']} rows of data.resolution"
        )
    batch, parts = flat["batch_size"], flat["optim.accumulate"]
    devices = shape["data"] * shape["fsdp"]
    if batch % (parts * devices):
        near = math.ceil(batch / (parts * devices)) * parts * devices
        raise ConfigError(
            f"config.batch_size = {batch}: must divide into optim.accumulate = {parts} parts over "
            f"{devices} devices; {near} would do"
        )


def mesh_shape(axes: dict[str, int], num_devices: int) -> dict[str, int]:
    """Mesh axis sizes with -1 replaced by what is left of `num_devices`.

    Raises:
      ConfigError: more than one -1, or a product other than `num_devices`.
    """
    fixed, free = 1, []
    for axis, size in axes.items():
        if size == -1:
            free.append(axis)
        else:
            fixed *= size
    words = ", ".join(f"{axis} = {size}" for axis, size in axes.items())
    if len(free) > 1:
        raise ConfigError(f"config.mesh ({words}): only one axis may be -1")
    if num_devices % fixed or (not free and fixed != num_devices):
        raise ConfigError(
            f"config.mesh ({words}): does not divide {num_devices} devices; data = -1, fsdp = 1, "
            "space = 1 always does"
        )
    return axes | dict.fromkeys(free, num_devices // fixed)


def to_json(config: ml_collections.ConfigDict) -> str:
    """The config as indented JSON with sorted keys."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


def from_dict(values: dict) -> ml_collections.ConfigDict:
    """A locked config from nested dictionaries, as a checkpoint holds them.

    Keys of an earlier version get the names of today (`keys.RENAMED`), and keys that it did not
    have are as it was trained (`keys.SINCE`).
    """
    flat = flatten(ml_collections.ConfigDict(values))
    flat = {keys.current_name(key): value for key, value in flat.items()}
    parents = {key.rpartition(".")[0] for key in flat}
    since = {key: value for key, value in keys.SINCE.items() if key.rpartition(".")[0] in parents}
    nested: dict = {}
    for key, value in (since | flat).items():
        *groups, name = key.split(".")
        functools.reduce(lambda group, part: group.setdefault(part, {}), groups, nested)[name] = (
            value
        )
    config = ml_collections.ConfigDict(nested)
    config.lock()
    return config


def differences(old: ml_collections.ConfigDict, new: ml_collections.ConfigDict) -> Iterable[str]:
    """Lines such as `optim.lr: 0.0001 -> 0.0003` for each key whose value differs."""
    before, after = flatten(old), flatten(new)
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key):
            yield f"{key}: {before.get(key)!r} -> {after.get(key)!r}"
