"""Every key of a config: its type, and which values are allowed, with the words for them.

An autoencoder's config has the keys of `SHARED` and `AUTOENCODER`, a latent diffusion model's those
of `SHARED` and `LATENT_DIFFUSION`.
"""

import dataclasses
from collections.abc import Callable


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

SHARED: dict[str, Key] = {
    "seed": Key(int, lambda value: 0 <= value < 2**32, "a whole number of at least 0, below 2**32"),
    "num_steps": _integer(1),
    "batch_size": _integer(1),
    "dtype": _one_of("float32", "bfloat16"),
    "init_from": _TEXT,
    "data.path": _TEXT,
    "data.tfds_name": _TEXT,
    "data.resolution": _integer(32),
    "data.crop": _one_of("random", "random_resized"),
    "data.flip": _FLAG,
    "data.permute_colors": _FLAG,
    "data.reduced_jpeg": _FLAG,
    "data.workers": _integer(0),
    "data.on_bad_record": _one_of("raise", "skip"),
    "data.max_bad_share": Key(float, lambda value: 0 < value < 1, "a number between 0 and 1"),
    "model.remat": _one_of("none", "convs", "full"),
    "flow.nfe": _integer(1),
    "optim.lr": _positive(),
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
    "log.every_steps": _integer(1),
    "profile.start_step": _integer(0),
    "profile.num_steps": _integer(1),
}

AUTOENCODER: dict[str, Key] = {
    "init.encoder": _one_of("ema", "raw", "none"),
    "init.decoder": _one_of("ema", "raw", "none"),
    "init.discriminator": _one_of("raw", "none"),
    "data.source": _one_of("photos", "folder", "array_record", "tfds"),
    "data.val_split": Key(str, lambda value: value not in ("", "train"), "a split but train"),
    "model.encoder.name": _one_of(
        *("sd", "vqgan", "lite", "omni", "tiny", "micro"),
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
    "model.decoder.size": _one_of("micro", "tiny", "s", "b", "m", "l", "xl", "h"),
    "model.decoder.patch": Key(int, lambda value: value in (4, 8), "4 or 8"),
    "model.decoder.conditioning": _one_of("concat", "adagn"),
    "model.decoder.input_skip": _FLAG,
    "model.discriminator.name": _one_of("patch", "residual"),
    "model.discriminator.context_scale": _number(0),
    "model.discriminator.channels": Key(
        int, lambda value: value >= 16 and value % 16 == 0, "a multiple of 16"
    ),
    "flow.process": _one_of("rectified_flow", "ddpm", "direct"),
    "flow.gamma": _positive(),
    "flow.normalization": _one_of("sample", "analytic"),
    "flow.time_sampling": _one_of("logit_normal", "uniform"),
    "flow.spacing": _one_of("reversed_log", "uniform"),
    "loss.distance": _one_of("l2", "l1"),
    "loss.lpips_weight": _number(0),
    "loss.lpips_net": _one_of("vgg16", "alexnet"),
    "loss.adv_weight": _number(0),
    "loss.adaptive_weight": _FLAG,
    "loss.adv_start_step": _integer(0),
    "loss.adv_ramp_steps": _integer(0),
    "loss.disc_start_step": _integer(0),
    "loss.gan": _one_of("non_saturating", "hinge", "relativistic"),
    "loss.matching": _one_of("trajectory", "standard", "step"),
    "loss.r1_weight": _number(0),
    "loss.r1_every_steps": _integer(1),
    "optim.discriminator_lr": _positive(),
    "optim.discriminator_b1": _number(0, 1),
    "optim.discriminator_b2": _number(0, 1),
    "optim.discriminator_warmup_steps": _integer(0),
    "eval.crop": _one_of("center_crop_adm", "center_crop_bicubic"),
}

# What a run of an earlier version, whose config has no such key, was trained with.
SINCE: dict[str, object] = {"data.permute_colors": False, "model.decoder.input_skip": False}
# What keys, and groups of keys, are called in configs of earlier versions.
RENAMED: dict[str, str] = {
    "init.generator": "init.latent_diffusion",
    "model.generator": "model.latent_diffusion",
}


def current_name(key: str) -> str:
    """The name that a key of an earlier version has now; other keys as they are."""
    for old, new in RENAMED.items():
        if f"{key}.".startswith(f"{old}."):
            return new + key.removeprefix(old)
    return key


LATENT_DIFFUSION: dict[str, Key] = {
    "init.latent_diffusion": _one_of("ema", "raw"),
    "data.source": _one_of("latents", "photos", "folder", "array_record", "tfds"),
    "autoencoder.workdir": _TEXT,
    "autoencoder.f": _integer(1),
    "autoencoder.n_z": _integer(1),
    "autoencoder.nfe": _integer(1),
    "model.latent_diffusion.size": _one_of("micro", "tiny", "s", "b", "l", "xl"),
    "model.latent_diffusion.patch": Key(int, lambda value: value in (1, 2, 4), "1, 2 or 4"),
    "model.latent_diffusion.num_classes": _integer(0),
    "model.latent_diffusion.learned_sigma": _FLAG,
    "flow.process": _one_of("ddpm", "rectified_flow"),
    "flow.time_sampling": _one_of("whole_steps", "logit_normal", "uniform"),
    "flow.spacing": _one_of("respaced", "uniform"),
    "loss.label_dropout": _number(0, 1),
    "eval.guidance": _number(0),
}
