"""What the paper has for networks and training as a run's, to stand beside its numbers."""

from collections.abc import Sequence

import ml_collections

from epsilon_vae.config import flatten

# What all its numbers were trained with.
COMMON = {
    "model.decoder.conditioning": "concat",
    "model.encoder.frozen": False,
    "loss.lpips_net": "vgg16",
    "loss.adaptive_weight": False,
    "loss.adv_start_step": 0,
    "loss.adv_ramp_steps": 0,
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
        "b": {128: 6.24},
        "m": {128: 5.42},
        "l": {128: 4.71},
        "xl": {128: 4.18},
        "h": {128: 4.04},
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
# Decoders without noise. The paper's own, by size: rFID at 128 px, trained at 128 px (Table 8).
VAE_RFID = {"b": 11.15, "m": 9.26, "l": 8.49, "xl": 7.58, "h": 7.12}
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


def paper_rows(
    subject: str, config: ml_collections.ConfigDict, resolutions: Sequence[int]
) -> list[dict]:
    """What the paper has for a run's networks and recipe at these resolutions, perhaps nothing.

    Its numbers are of ImageNet's 50,000 validation images and of its own training; neither a run's
    data nor its length is compared.
    """
    rows = _direct_rows if config.flow.process == "direct" else _denoising_rows
    return [
        {"subject": subject, "num_images": 50_000} | row
        for resolution in resolutions
        for row in rows(config, resolution)
    ]


def _direct_rows(config: ml_collections.ConfigDict, resolution: int) -> list[dict]:
    """Of a decoder without noise; of other people's, whatever they were trained with."""
    model = config.model
    size, bottleneck = model.decoder.size, model.bottleneck
    place = {"resolution": resolution, "nfe": 1}
    if model.decoder.name == "vae":
        expected = ("lite", 16, 8, "none", 128, 128)
        encoder = model.encoder.name, model.encoder.f, model.encoder.n_z
        found = (*encoder, bottleneck.name, config.data.resolution, resolution)
        if found != expected or size not in VAE_RFID:
            return []
        name = f"paper, VAE {size.upper()}, ImageNet"
        return [place | {"name": name, "rfid": VAE_RFID[size], "psnr": None, "ssim": None}]
    networks = model.encoder.name, model.decoder.name, bottleneck.name
    key = *networks, bottleneck.normalized_codes, model.encoder.f
    other, numbers = OTHERS.get(key, ("", {}))
    return [
        place
        | {"name": f"paper, {other}, {table}, ImageNet"}
        | dict(zip(("rfid", "psnr", "ssim"), found, strict=True))
        for (table, at), found in numbers.items()
        if at == resolution and size == "m"
    ]


def _denoising_rows(config: ml_collections.ConfigDict, resolution: int) -> list[dict]:
    flat = flatten(config)
    encoder, f, size = (
        flat[f"model.{key}"] for key in ("encoder.name", "encoder.f", "decoder.size")
    )
    rung = RUNGS.get(tuple(flat[key] for key in RUNG_KEYS))
    is_common = all(flat[key] == value for key, value in COMMON.items())
    if rung is None or not is_common or flat["model.encoder.n_z"] != N_Z.get(encoder):
        return []
    letter, nfe, _ = rung
    what = f"{encoder} f {f}, {size.upper()}" if letter == "g" else f"ladder's {letter}"
    stage = bool(flat["init_from"]), flat["data.resolution"]
    found = _numbers(rung, (encoder, f), size, stage, resolution)
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

    `stage` says whether a run started from another one, and the resolution that it trained at.
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
