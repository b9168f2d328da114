"""Something to report: crops of photos, blurred ones as their reconstructions, and a bad name."""

import numpy as np
from skimage import data
from skimage.filters import gaussian

from epsilon_vae.evaluation.report import Gallery, ReportImage, SeedVariation, Trajectory

BAD_NAME = "vae </script><b>\"ε'</b>"
KEYS = {("tiny", 1): 2.0, ("tiny", 3): 1.0, (BAD_NAME, None): 1.5}  # key → blur of its pictures
RESOLUTIONS = (32, 64)
NUM_IMAGES = 12
NOTE = "fd_vgg16 over 512 features of 40 images: too few"


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    return (255 * gaussian(image / 255, sigma, channel_axis=-1)).round().astype(np.uint8)


def make_metrics(image: np.ndarray, other: np.ndarray) -> dict[str, float]:
    error = np.mean((image / 255 - other / 255) ** 2)
    psnr = float(-10 * np.log10(error)) if error else float("inf")
    return {"psnr": psnr, "ssim": 1 / (1 + 20 * error), "lpips_vgg16": float(np.sqrt(error))}


def make_images() -> list[ReportImage]:
    """Crops of photos and blurred ones; one reconstructor has the first without error."""
    photos = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket()]
    images = []
    for resolution in RESOLUTIONS:
        for i in range(NUM_IMAGES):
            top, left = 8 * i, 20 * i
            crop = photos[i % 4][top : top + 3 * resolution : 3, left : left + 3 * resolution : 3]
            others = {key: blur(crop, sigma) for key, sigma in KEYS.items()}
            if i == 0:
                others[BAD_NAME, None] = crop
            metrics = {key: make_metrics(crop, other) for key, other in others.items()}
            name = f"photo_{i}{BAD_NAME if i == 1 else ''}.png"
            images.append(
                ReportImage(
                    index=10 * i,
                    name=name,
                    resolution=resolution,
                    original=crop,
                    reconstructions=others,
                    metrics=metrics,
                )
            )
    return images


def worst_of(images: list[ReportImage], metric: str, key) -> list[ReportImage]:
    sign = -1 if metric == "lpips_vgg16" else 1
    return sorted(images, key=lambda image: sign * image.metrics[key][metric])[:10]


def make_pictures() -> Gallery:
    images = make_images()
    worst, seeds, trajectories = {}, [], []
    for resolution in RESOLUTIONS:
        own = [image for image in images if image.resolution == resolution]
        for key in KEYS:
            for metric in ("psnr", "ssim", "lpips_vgg16"):
                found = worst_of(own, metric, key)
                worst[resolution, metric, key] = [image.index for image in found]
        deviation = np.abs(own[0].original / 1 - own[0].reconstructions["tiny", 1]).mean(-1)
        seeds.append(
            SeedVariation(
                index=0,
                resolution=resolution,
                reconstructor="tiny",
                nfe=3,
                num_seeds=8,
                deviation=deviation,
            )
        )
        times = np.array([1, 0.75, 0.5, 0.25, 0])
        noise = np.random.default_rng(0).integers(0, 256, own[0].original.shape)
        states = [(1 - t) * own[0].original + t * noise for t in times]
        estimates = [blur(own[0].original, 4 * t) for t in times[:-1]]
        states = np.stack(states).astype(np.uint8)
        trajectories.append(
            Trajectory(
                index=0,
                resolution=resolution,
                reconstructor="tiny",
                times=times,
                states=states,
                estimates=np.stack(estimates),
            )
        )
    return Gallery(images=images, worst=worst, seeds=seeds, trajectories=trajectories)


def make_results(images: list[ReportImage]) -> dict:
    rows = []
    for resolution in RESOLUTIONS:
        for reconstructor, nfe in KEYS:
            own = [i.metrics[reconstructor, nfe] for i in images if i.resolution == resolution]
            means = {name: float(np.mean([values[name] for values in own])) for name in own[0]}
            seconds = 0.0123 * nfe if nfe else None
            row = {
                "reconstructor": reconstructor,
                "resolution": resolution,
                "nfe": nfe,
                "num_images": 40,
            }
            row |= {"fd_vgg16": 123.456 / (nfe or 2), **means, "decode_seconds": seconds}
            quartiles = [0.9 * seconds, 1.2 * seconds] if seconds else None
            row |= {"decode_seconds_quartiles": quartiles}
            rows.append(row | {"notes": [NOTE] if nfe == 1 else []})
    paper = {"reconstructor": "tiny", "resolution": 64, "name": "ε-VAE M (paper)", "nfe": 3}
    return {
        "protocol": {"name": "local", "crop": "adm", "features": ["vgg16"], "seed": 0},
        "data": {"source": "/data/photos", "num_images": 40},
        "versions": {"git_commit": "0123abc", "jax": "0.10"},
        "reconstructors": [{"name": "tiny", "step": 1000}, {"name": BAD_NAME, "kind": "folder"}],
        "rows": rows,
        "paper": [paper | {"rfid": 1.58, "psnr": None, "ssim": None}],
    }
