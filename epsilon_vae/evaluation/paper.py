"""The paper's numbers for networks and training as a run's, to stand beside its own."""

from collections.abc import Sequence

import ml_collections

from epsilon_vae.config import flatten

# What all its numbers were trained with.
COMMON = {
    "model.decoder.conditioning": "concat",
    "model.encoder.frozen": False,
    "model.discriminator.name": "patch",
    "model.discriminator.context_scale": 1.0,
    "loss.lpips_net": "vgg16",
    "loss.adaptive_weight": False,
    "loss.adv_start_step": 0,
    "loss.adv_ramp_steps": 0,
    "loss.disc_start_step": 0,
    "loss.gan": "non_saturating",
    "loss.matching": "trajectory",
}
N_Z = {"sd": 4, "lite": 8}
# What tells the rungs of its ladder (Table 5) apart, and the rung, NFE and rFID at 128 px of the
# lite encoder, f 16, with decoder B. The last rung is the recipe of all other tables.
RUNG_KEYS = (
    "flow.process",
    "flow.time_sampling",
    "model.decoder.name",
    "loss.lpips_weight",
    "loss.adv_weight",
    "flow.gamma",
    "flow.spacing",
)
RUNGS = {
    ("ddpm", "uniform", "ddpm", 0, 0, 1, "uniform"): ("baseline", 1000, 28.22),
    ("rectified_flow", "uniform", "ddpm", 0, 0, 1, "uniform"): ("a", 100, 24.11),
    ("rectified_flow", "logit_normal", "ddpm", 0, 0, 1, "uniform"): ("b", 50, 23.44),
    ("rectified_flow", "logit_normal", "adm", 0, 0, 1, "uniform"): ("c", 50, 22.04),
    ("rectified_flow", "logit_normal", "adm", 0.5, 0, 1, "uniform"): ("d", 10, 11.76),
    ("rectified_flow", "logit_normal", "adm", 0.5, 0.5, 1, "uniform"): ("e", 5, 8.24),
    ("rectified_flow", "logit_normal", "adm", 0.5, 0.5, 0.6, "uniform"): ("f", 5, 7.08),
    ("rectified_flow", "logit_normal", "adm", 0.5, 0.5, 0.6, "reversed_log"): ("g", 3, 6.24),
}
# rFID of ImageNet's validation set by resolution, trained at 128 px, NFE 3 (paper, Tables 1 and 8).
RFID = {
    ("sd", 8): {
        "b": {128: 1.94, 256: 0.65, 512: 0.61},
        "m": {128: 1.58, 256: 0.55, 512: 0.53},
        "l": {128: 1.47, 256: 0.52, 512: 0.41},
        "xl": {128: 1.34, 256: 0.49, 512: 0.39},
        "h": {128: 1.00, 256: 0.44, 512: 0.35},
    },
    ("lite", 16): {
        "b": {128: 6.24, 256: 3.90, 512: 2.06},
        "m": {128: 5.42, 256: 2.79, 512: 2.02},
        "l": {128: 4.71, 256: 2.60, 512: 1.92},
        "xl": {128: 4.18, 256: 2.38, 512: 1.82},
        "h": {128: 4.04, 256: 2.31, 512: 1.78},
    },
}
# The same after a second stage at 256 px, at 256 px (paper, Tables 1 and 2).
FINETUNED_RFID = {
    ("sd", 8): {"b": 0.52, "m": 0.47, "l": 0.45, "xl": 0.43, "h": 0.38},
    ("sd", 16): {"m": 1.91, "h": 1.35},
}
# PSNR and SSIM of those (paper, Table 2).
SIMILARITY = {
    ("sd", 8): {"m": (27.65, 0.841), "h": (29.49, 0.851)},
    ("sd", 16): {"m": (21.27, 0.693), "h": (22.60, 0.711)},
}
# rFID, PSNR and SSIM of COCO 2017's validation set, of the same second stage (paper, Table 2).
COCO = {
    ("sd", 8): {"m": (3.98, 25.88, 0.850), "h": (3.65, 26.01, 0.856)},
    ("sd", 16): {"m": (6.12, 22.38, 0.718), "h": (4.18, 24.26, 0.830)},
}
# Decoders without noise. The paper's own, by size: rFID by resolution, trained at 128 px (Table 8).
VAE_RFID = {
    "b": {128: 11.15, 256: 5.74, 512: 3.69},
    "m": {128: 9.26, 256: 4.63, 512: 2.69},
    "l": {128: 8.49, 256: 4.78, 512: 2.78},
    "xl": {128: 7.58, 256: 4.42, 512: 2.41},
    "h": {128: 7.12, 256: 4.29, 512: 2.37},
}
# Other people's autoencoders, by encoder, decoder, bottleneck, whether codes have length 1, and f:
# name, and rFID, PSNR and SSIM by table and resolution. Table 1 is of training at 128 px.
OTHERS = {
    ("sd", "sd", "kl", False, 8): (
        "SD-VAE f 8",
        {
            ("Table 1", 128): (4.54, None, None),
            ("Table 1", 256): (1.21, None, None),
            ("Table 1", 512): (0.91, None, None),
            ("Table 2", 256): (0.74, 25.68, 0.820),
        },
    ),
    ("sd", "sd", "kl", False, 16): ("SD-VAE f 16", {("Table 2", 256): (2.93, 20.57, 0.662)}),
    ("litevae_b", "sd", "kl", False, 8): (
        "LiteVAE f 8",
        {
            ("Table 1", 128): (4.40, None, None),
            ("Table 1", 256): (0.97, None, None),
            ("Table 2", 256): (0.87, 26.02, 0.740),
        },
    ),
    ("vqgan", "vqgan", "vq", False, 8): ("VQGAN f 8", {("Table 2", 256): (1.19, 23.38, 0.762)}),
    ("vqgan", "vqgan", "vq", False, 16): ("VQGAN f 16", {("Table 2", 256): (4.99, 20.00, 0.629)}),
    ("vqgan", "vqgan", "vq", True, 8): ("LlamaGen f 8", {("Table 2", 256): (0.59, 24.45, 0.813)}),
    ("vqgan", "vqgan", "vq", True, 16): ("LlamaGen f 16", {("Table 2", 256): (2.19, 20.79, 0.675)}),
}
# The same of COCO 2017's validation set at 256 px. SDXL-VAE, whose networks are SD-VAE's and which
# has no config here, has 4.07, 25.76 and 0.845.
OTHERS_COCO = {
    ("sd", "sd", "kl", False, 8): (4.45, 25.41, 0.831),
    ("sd", "sd", "kl", False, 16): (8.89, 19.95, 0.670),
}


def paper_rows(
    reconstructor: str,
    config: ml_collections.ConfigDict,
    *,
    resolutions: Sequence[int],
    data: str = "",
) -> list[dict]:
    """The paper's rows for a run's networks and recipe at these resolutions, perhaps none.

    Its numbers are of ImageNet's 50,000 validation images, or of COCO's 5,000 where `data`, the
    name of the images that the run is measured on, says coco; and of its own training: neither a
    run's training data nor its length is compared.

    Args:
      reconstructor: the run's name in results.
      config: of the run.
      resolutions: of the evaluation, in pixels.
      data: name of the images that it is measured on.
    """
    is_direct = config.flow.process == "direct"
    if "coco" in data.lower():
        num_images, rows = 5_000, _coco_rows
    else:
        num_images, rows = 50_000, _direct_rows if is_direct else _denoising_rows
    return [
        {"reconstructor": reconstructor, "num_images": num_images} | row
        for resolution in resolutions
        for row in rows(config, resolution)
    ]


def _coco_rows(config: ml_collections.ConfigDict, resolution: int) -> list[dict]:
    """Rows of Table 2, whose ε-VAEs had a second stage at 256 px."""
    model, found = config.model, None
    if resolution != 256:
        return []
    if config.flow.process == "direct":
        key = _other_key(config)
        nfe, name = 1, OTHERS.get(key, ("", {}))[0]
        found = OTHERS_COCO.get(key) if model.decoder.size == "m" else None
    elif (recipe := _recipe(config)) and recipe[0] == "g" and _stage(config) == (True, 256):
        nfe, setup = recipe[1], (model.encoder.name, model.encoder.f)
        name = f"{setup[0]} f {setup[1]}, {model.decoder.size.upper()}"
        found = COCO.get(setup, {}).get(model.decoder.size)
    if found is None:
        return []
    place = {"resolution": resolution, "nfe": nfe, "name": f"paper, {name}, COCO"}
    return [place | dict(zip(("rfid", "psnr", "ssim"), found, strict=True))]


def _other_key(config: ml_collections.ConfigDict) -> tuple:
    """Rows of `OTHERS`."""
    model, bottleneck = config.model, config.model.bottleneck
    networks = model.encoder.name, model.decoder.name, bottleneck.name
    return *networks, bottleneck.normalized_codes, model.encoder.f


def _stage(config: ml_collections.ConfigDict) -> tuple[bool, int]:
    """Whether a run started from another one, and the resolution that it trained at."""
    return bool(config.init_from), config.data.resolution


def _recipe(config: ml_collections.ConfigDict) -> tuple[str, int, float] | None:
    """The ladder's rung that a run's recipe is, of `RUNGS`; None where it is another recipe.

    A key that a run of an earlier version has not is as the paper's.
    """
    flat = flatten(config)
    is_common = all(flat.get(key, value) == value for key, value in COMMON.items())
    is_common &= flat["model.encoder.n_z"] == N_Z.get(flat["model.encoder.name"])
    return RUNGS.get(tuple(flat[key] for key in RUNG_KEYS)) if is_common else None


def _direct_rows(config: ml_collections.ConfigDict, resolution: int) -> list[dict]:
    """Whether a decoder has no noise; of other people's, whatever they were trained with."""
    model = config.model
    size, bottleneck = model.decoder.size, model.bottleneck
    place = {"resolution": resolution, "nfe": 1}
    if model.decoder.name == "vae":
        expected = ("lite", 16, 8, "none", 128)
        encoder = model.encoder.name, model.encoder.f, model.encoder.n_z
        found = (*encoder, bottleneck.name, config.data.resolution)
        rfid = VAE_RFID.get(size, {}).get(resolution)
        if found != expected or rfid is None:
            return []
        name = f"paper, VAE {size.upper()}, ImageNet"
        return [place | {"name": name, "rfid": rfid, "psnr": None, "ssim": None}]
    other, numbers = OTHERS.get(_other_key(config), ("", {}))
    return [
        place
        | {"name": f"paper, {other}, {table}, ImageNet"}
        | dict(zip(("rfid", "psnr", "ssim"), found, strict=True))
        for (table, at), found in numbers.items()
        if at == resolution and size == "m"
    ]


def _denoising_rows(config: ml_collections.ConfigDict, resolution: int) -> list[dict]:
    encoder, f, size = config.model.encoder.name, config.model.encoder.f, config.model.decoder.size
    rung = _recipe(config)
    if rung is None:
        return []
    letter, nfe, _ = rung
    what = f"{encoder} f {f}, {size.upper()}" if letter == "g" else f"ladder's {letter}"
    found = _numbers(rung, (encoder, f), size, _stage(config), resolution)
    if found["rfid"] is None:
        return []
    return [{"resolution": resolution, "nfe": nfe, "name": f"paper, {what}, ImageNet"} | found]


def _numbers(
    rung: tuple[str, int, float],
    setup: tuple[str, int],
    size: str,
    stage: tuple[bool, int],
    resolution: int,
) -> dict[str, float | None]:
    """'rfid', 'psnr' and 'ssim', or None for each.

    `stage` is `_stage`'s.
    """
    rfid = psnr = ssim = None
    if rung[0] != "g":
        if (setup, size, stage, resolution) == (("lite", 16), "b", (False, 128), 128):
            rfid = rung[2]
    elif stage == (False, 128):
        rfid = RFID.get(setup, {}).get(size, {}).get(resolution)
    elif stage == (True, 256) and resolution == 256:
        rfid = FINETUNED_RFID.get(setup, {}).get(size)
        psnr, ssim = SIMILARITY.get(setup, {}).get(size, (None, None))
    return {"rfid": rfid, "psnr": psnr, "ssim": ssim}
