"""How well an autoencoder reconstructs held-out photos: PSNR, SSIM, LPIPS, and a grid."""

from collections.abc import Iterable

import jax
import numpy as np

from epsilon_vae.autoencoder import Autoencoder
from epsilon_vae.data.transforms import to_float
from epsilon_vae.losses.perceptual import LPIPS
from epsilon_vae.metrics.psnr_ssim import psnr, ssim


def make_image_metrics(lpips_net: str):
    """`(lpips_params, images, reconstructions) -> {'psnr', 'ssim', 'lpips'}`, each `[B]`, jitted.

    Images are uint8. PSNR and SSIM are of [0, 1]; every mean over images is the caller's.
    """
    lpips = LPIPS(lpips_net)

    def metrics(params: dict, images: jax.Array, others: jax.Array) -> dict[str, jax.Array]:
        a, b = images / 255.0, others / 255.0
        distance = lpips(params, to_float(images), to_float(others))
        return {"psnr": psnr(a, b), "ssim": ssim(a, b), "lpips": distance}

    return jax.jit(metrics)


def evaluate(
    autoencoder: Autoencoder,
    batches: Iterable[np.ndarray],
    image_metrics,
    lpips_params: dict,
    steps: int,
    seed: int = 0,
) -> dict[str, float]:
    """Means over all images of PSNR (dB), SSIM and LPIPS of reconstructions rounded to uint8."""
    per_image: dict[str, list[np.ndarray]] = {}
    for images in batches:
        reconstructions = autoencoder.reconstruct(images, steps, seed)
        for name, values in image_metrics(lpips_params, images, reconstructions).items():
            per_image.setdefault(name, []).append(np.asarray(values))
    return {name: float(np.mean(np.concatenate(values))) for name, values in per_image.items()}


def grid(
    autoencoder: Autoencoder, images: np.ndarray, steps: tuple[int, ...] = (1, 3), seed: int = 0
) -> np.ndarray:
    """uint8 picture, a row an image: the original, then its reconstruction for each NFE."""
    columns = [images] + [autoencoder.reconstruct(images, n, seed) for n in steps]
    rows = np.concatenate(columns, axis=2)
    return rows.reshape(-1, *rows.shape[2:])
