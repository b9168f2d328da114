"""The paper's comparisons, by name: what each trains, how often it decodes, what the paper found.

`python -m epsilon_vae.study --study=ladder` trains and evaluates the variants of one. Numbers of
the paper are rFID on ImageNet at 128 px (Tables 5, 7 and 8).
"""

import json
from typing import NamedTuple

import ml_collections

from configs import ablation, common, tiny
from epsilon_vae.config import flatten
from epsilon_vae.evaluation.paper import RUNGS, VAE_RFID

PAPER_LADDER = {rung: rfid for rung, _, rfid in RUNGS.values()}
# What a laptop's variants take from `tiny`.
SMALL = (
    "batch_size",
    "dtype",
    "data",
    "model.encoder",
    "model.decoder.size",
    "model.decoder.input_skip",
    "model.discriminator",
    "loss.gan",
    "loss.r1_",
    "loss.adv_start_step",
    "loss.adv_ramp_steps",
    "loss.disc_start_step",
    "loss.lpips_net",
    "optim",
    "checkpoint",
    "log",
)


# Keys that say how a variant decodes; training does not depend on them.
DECODING = ("flow.spacing", "flow.nfe")


class Variant(NamedTuple):
    """What is trained, the NFEs that it is evaluated at, and the paper's rFID of it."""

    config: ml_collections.ConfigDict
    nfes: tuple[int, ...]
    paper_rfid: float | None = None


def ladder(scale: str) -> dict[str, Variant]:
    """Table 5: from a DDPM decoder to the ε-VAE, a step at a time."""
    return {rung: _rung(scale, rung, {}, PAPER_LADDER[rung]) for rung in ablation.LADDER}


def conditioning(scale: str) -> dict[str, Variant]:
    """Table 7: latents are concatenated, or modulate the norms."""
    found = {"concat": PAPER_LADDER["c"], "adagn": 22.01}
    return {
        name: _rung(scale, "c", {"model.decoder.conditioning": name}, rfid)
        for name, rfid in found.items()
    }


def matching(scale: str) -> dict[str, Variant]:
    """What the discriminator compares; the paper found 'standard' unstable."""
    found = {"trajectory": PAPER_LADDER["e"], "step": 10.53, "standard": None}
    return {name: _rung(scale, "e", {"loss.matching": name}, rfid) for name, rfid in found.items()}


def gamma(scale: str) -> dict[str, Variant]:
    """The scale of the data term; 1 is rung e, 0.6 rung f."""
    found = {0.4: None, 0.6: PAPER_LADDER["f"], 0.8: None, 1.0: PAPER_LADDER["e"]}
    return {
        f"gamma{value}": _rung(scale, "f", {"flow.gamma": value}, rfid)
        for value, rfid in found.items()
    }


def nfe(scale: str) -> dict[str, Variant]:
    """Steps of decoding, at uniform (rung f) and reversed-log (rung g) spacing."""
    steps = (1, 2, 3, 5, 10, 20)
    found = {"uniform": "f", "reversed_log": "g"}
    return {name: _rung(scale, rung, {})._replace(nfes=steps) for name, rung in found.items()}


def latent(scale: str) -> dict[str, Variant]:
    """Figure 2: downsampling factors and latent channels."""
    factors = (4, 8, 16, 32) if scale == "paper" else (4, 8)
    middle = factors[len(factors) // 2]
    sizes = [*((f, 8) for f in factors), *((middle, n_z) for n_z in (4, 16, 32))]
    return {
        f"f{f}c{n_z}": _rung(scale, "g", {"model.encoder.f": f, "model.encoder.n_z": n_z})
        for f, n_z in sizes
    }


def architecture(scale: str) -> dict[str, Variant]:
    """Figure 2: an ADM decoder against a DiT one; on a pod ADM-XL, 141 M, and DiT-B, 130 M."""
    adm = {"model.decoder.size": "xl"} if scale == "paper" else {}
    dit = {"model.decoder.name": "dit"}
    return {
        "adm": _rung(scale, "g", adm),
        "dit_patch4": _rung(scale, "g", dit),
        "dit_patch8": _rung(scale, "g", dit | {"model.decoder.patch": 8}),
    }


def decoders(scale: str) -> dict[str, Variant]:
    """ε-VAE's decoder against deterministic ones of like size, with the same encoder (Table 8).

    On a pod of 20.6, 22.8 and, SD-VAE's own, 38.2 M parameters.
    """
    vae, sd = common.vae("m"), common.vae("m")
    sd.model.decoder.name, sd.model.decoder.size = "sd", "m"
    return {
        "epsilon_vae": _rung(scale, "g", {}, PAPER_LADDER["g"]),
        "vae": Variant(_scaled(scale, vae, {}), (1,), VAE_RFID["m"][128]),
        "sd": Variant(_scaled(scale, sd, {}), (1,)),
    }


def _rung(scale: str, rung: str, changes: dict, paper_rfid: float | None = None) -> Variant:
    """A rung of the ladder with some changes, evaluated at its NFE."""
    config = _scaled(scale, ablation.get_config(rung), changes)
    return Variant(config, (config.flow.nfe,), paper_rfid)


def _scaled(scale: str, config: ml_collections.ConfigDict, changes: dict):
    """With `tiny`'s networks, data, GAN and optimizers for a laptop; then the changes."""
    if scale == "small":
        laptop = flatten(tiny.get_config())
        config.update_from_flattened_dict({k: v for k, v in laptop.items() if k.startswith(SMALL)})
        config.model.encoder.f = 8
        config.data.resolution = 32
        config.data.permute_colors = False  # `--data` has more colors than `tiny`'s photos
        config.optim.ema_decay = 0.998  # over more steps than tiny has
        if config.flow.process == "direct":
            config.model.decoder.input_skip = False
        config.eval.every_steps, config.eval.num_images = 1_000_000, 8  # the study evaluates
    config.update_from_flattened_dict(changes)
    return config


def trained_as(variants: dict[str, Variant]) -> dict[str, str]:
    """Name of each variant → of the first one with the same training.

    Variants that differ in how they decode, as the ladder's f and g, share a run.
    """
    first: dict[str, str] = {}
    found = {}
    for name, variant in variants.items():
        training = {k: v for k, v in flatten(variant.config).items() if k not in DECODING}
        found[name] = first.setdefault(json.dumps(training, sort_keys=True), name)
    return found


STUDIES = {
    study.__name__: study
    for study in (ladder, conditioning, matching, gamma, nfe, latent, architecture, decoders)
}
