"""What a config may say: every key, its type, its range; and one clear line for what is wrong.

`configs/common.py` holds the values. A config is an `ml_collections.ConfigDict`; it stops at the
builders, no network or loss sees one.
"""

import dataclasses
import difflib
import json
import math
from collections.abc import Callable, Iterable

import ml_collections


class ConfigError(ValueError):
    """A config that cannot run; the message names the key, the value and what would do."""


@dataclasses.dataclass(frozen=True)
class Key:
    """One key: its type, whether a value is allowed, and the words for what is allowed."""

    type: type
    allows: Callable[[object], bool]
    expected: str


def _one_of(*choices: str) -> Key:
    return Key(str, lambda value: value in choices, "one of " + ", ".join(choices))


def _integer(minimum: int) -> Key:
    return Key(int, lambda value: value >= minimum, f"a whole number of at least {minimum}")


def _number(minimum: float, below: float = float("inf")) -> Key:
    words = f"a number of at least {minimum:g}" + (f" and below {below:g}" if below < 1e9 else "")
    return Key(float, lambda value: minimum <= value < below, words)


def _positive() -> Key:
    return Key(float, lambda value: 0 < value < float("inf"), "a positive number")


_TEXT = Key(str, lambda value: True, "text")
_FLAG = Key(bool, lambda value: True, "True or False")
_AXIS = Key(int, lambda value: value == -1 or value >= 1, "-1 (what is left) or at least 1")

KEYS: dict[str, Key] = {
    "seed": Key(int, lambda value: 0 <= value < 2**32, "a whole number of at least 0, below 2**32"),
    "num_steps": _integer(1),
    "batch_size": _integer(1),
    "dtype": _one_of("float32", "bfloat16"),
    "init_from": _TEXT,
    "init.encoder": _one_of("ema", "raw", "none"),
    "init.decoder": _one_of("ema", "raw", "none"),
    "init.discriminator": _one_of("raw", "none"),
    "data.source": _one_of("photos", "folder", "array_record", "tfds"),
    "data.path": _TEXT,
    "data.tfds_name": _TEXT,
    "data.val_split": Key(str, lambda value: value not in ("", "train"), "a split but train"),
    "data.resolution": _integer(32),
    "data.crop": _one_of("random", "random_resized"),
    "data.flip": _FLAG,
    "data.reduced_jpeg": _FLAG,
    "data.workers": _integer(0),
    "data.on_bad_record": _one_of("raise", "skip"),
    "data.max_bad_share": Key(float, lambda value: 0 < value < 1, "a number between 0 and 1"),
    "model.remat": _one_of("none", "convs", "full"),
    "model.encoder.name": _one_of(
        *("sd", "vqgan", "lite", "omni", "tiny"),
        *("litevae_s", "litevae_b", "litevae_m", "litevae_l"),
    ),
    "model.encoder.f": _integer(4),
    "model.encoder.n_z": _integer(1),
    "model.encoder.frozen": _FLAG,
    "model.bottleneck.name": _one_of("none", "kl", "vq"),
    "model.bottleneck.kl_weight": _number(0),
    "model.bottleneck.kl_convs": _FLAG,
    "model.bottleneck.vq_channels": _integer(1),
    "model.bottleneck.num_codes": _integer(2),
    "model.bottleneck.commitment": _number(0),
    "model.bottleneck.normalized_codes": _FLAG,
    "model.bottleneck.legacy_commitment": _FLAG,
    "model.decoder.name": _one_of("adm", "ddpm", "dit", "vae", "sd", "vqgan", "asym", "omni"),
    "model.decoder.size": _one_of("tiny", "s", "b", "m", "l", "xl", "h"),
    "model.decoder.patch": Key(int, lambda value: value in (4, 8), "4 or 8"),
    "model.decoder.conditioning": _one_of("concat", "adagn"),
    "model.discriminator.channels": Key(
        int, lambda value: value >= 16 and value % 16 == 0, "a multiple of 16"
    ),
    "flow.process": _one_of("rectified_flow", "ddpm", "direct"),
    "flow.gamma": _positive(),
    "flow.normalization": _one_of("sample", "analytic"),
    "flow.time_sampling": _one_of("logit_normal", "uniform"),
    "flow.spacing": _one_of("reversed_log", "uniform"),
    "flow.nfe": _integer(1),
    "loss.distance": _one_of("l2", "l1"),
    "loss.lpips_weight": _number(0),
    "loss.lpips_net": _one_of("vgg16", "alexnet"),
    "loss.adv_weight": _number(0),
    "loss.adaptive_weight": _FLAG,
    "loss.adv_start_step": _integer(0),
    "loss.adv_ramp_steps": _integer(0),
    "loss.gan": _one_of("non_saturating", "hinge"),
    "loss.matching": _one_of("trajectory", "standard", "step"),
    "loss.r1_weight": _number(0),
    "loss.r1_every_steps": _integer(1),
    "optim.lr": _positive(),
    "optim.discriminator_lr": _positive(),
    "optim.b1": _number(0, 1),
    "optim.b2": _number(0, 1),
    "optim.warmup_steps": _integer(0),
    "optim.clip_norm": _number(0),
    "optim.ema_decay": _number(0, 1),
    "optim.accumulate": _integer(1),
    "mesh.data": _AXIS,
    "mesh.fsdp": _AXIS,
    "mesh.space": _AXIS,
    "checkpoint.every_steps": _integer(1),
    "checkpoint.keep": _integer(1),
    "checkpoint.permanent_every_steps": _integer(0),
    "eval.every_steps": _integer(1),
    "eval.num_images": _integer(1),
    "eval.crop": _one_of("center_crop_adm", "center_crop_bicubic"),
    "log.every_steps": _integer(1),
    "profile.start_step": _integer(0),
    "profile.num_steps": _integer(1),
}


def flatten(config: ml_collections.ConfigDict, prefix: str = "") -> dict[str, object]:
    """`{'optim.lr': 1e-4, …}`."""
    flat = {}
    for name, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def check_key(key: str, value: object) -> None:
    """Raises `ConfigError` unless `key` exists."""
    if key not in KEYS:
        near = difflib.get_close_matches(key, KEYS, n=1)
        hint = f"did you mean {near[0]}?" if near else "configs/common.py lists the keys"
        raise ConfigError(f"config.{key} = {value!r}: there is no such key; {hint}")


def check_override(key: str, text: str) -> None:
    """Raises `ConfigError` unless `--config.key=text` names a key and its type can be read.

    The range is `check`'s to judge, with the whole config at hand.
    """
    check_key(key, text)
    expected = KEYS[key]
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
    for key, value in flat.items():
        check_key(key, value)
    for key, expected in KEYS.items():
        if key not in flat:
            raise ConfigError(f"config.{key} is missing: expected {expected.expected}")
        value = flat[key]
        if expected.type is float and type(value) is int:
            value = float(value)
        if type(value) is not expected.type or not expected.allows(value):
            raise ConfigError(f"config.{key} = {value!r}: expected {expected.expected}")
    _check_source(flat)
    _check_init(flat)
    _check_direct(flat)


def _check_source(flat: dict) -> None:
    source = flat["data.source"]
    if source in ("folder", "array_record") and not flat["data.path"]:
        raise ConfigError(
            f"config.data.path = '': source {source!r} needs the folder of train, val"
        )
    if source == "photos" and flat["data.val_split"] != "val":
        raise ConfigError(f"config.data.val_split = {flat['data.val_split']!r}: photos has 'val'")
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
    """A locked config from nested dictionaries, as a checkpoint holds them."""
    config = ml_collections.ConfigDict(values)
    config.lock()
    return config


def differences(old: ml_collections.ConfigDict, new: ml_collections.ConfigDict) -> Iterable[str]:
    """Lines such as `optim.lr: 0.0001 -> 0.0003` for each key whose value differs."""
    before, after = flatten(old), flatten(new)
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key):
            yield f"{key}: {before.get(key)!r} -> {after.get(key)!r}"
