"""How well an autoencoder reconstructs held-out photos: PSNR, SSIM, LPIPS, and a grid."""

from collections.abc import Iterator

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from epsilon_vae import builders
from epsilon_vae.autoencoder import Autoencoder
from epsilon_vae.data.pipeline import BadRecords, evaluation_batches
from epsilon_vae.data.sources import EvenlySpaced, open_source
from epsilon_vae.data.transforms import to_float, to_uint8
from epsilon_vae.losses.perceptual import LPIPS
from epsilon_vae.metrics.psnr_ssim import psnr, ssim
from epsilon_vae.parallel.batch import share_images
from epsilon_vae.parallel.mesh import replicated
from epsilon_vae.pretrained import lpips

METRICS = ("psnr", "ssim", "lpips")
GRID_IMAGES = 8
GRID_STEPS = (1, 3)
BATCH_SIZE = 64


def make_image_metrics(lpips_net: str, mesh: Mesh):
    """`(lpips_params, images, others) -> {'psnr', 'ssim', 'lpips'}`, each `[B]`, as NumPy arrays.

    Images are uint8. PSNR (dB) and SSIM are of [0, 1]; every mean over images is the caller's.
    """
    distance = LPIPS(lpips_net)

    def metrics(params: dict, images: jax.Array, others: jax.Array) -> dict[str, jax.Array]:
        a, b = images / 255.0, others / 255.0
        return {
            "psnr": psnr(a, b),
            "ssim": ssim(a, b),
            "lpips": distance(params, to_float(images), to_float(others)),
        }

    return share_images(metrics, mesh)


def _held_out_images(config: ml_collections.ConfigDict) -> Iterator[np.ndarray]:
    """Batches of uint8 crops; they stay in memory, since every evaluation sees them again."""
    data = config.data
    source = open_source(data.source, data.path, data.val_split, data.tfds_name)
    source = EvenlySpaced(source, config.eval.num_images)
    bad_records = BadRecords(data.max_bad_share if data.on_bad_record == "skip" else 0, len(source))
    for batch in evaluation_batches(
        source, BATCH_SIZE, data.resolution, config.eval.crop, bad_records
    ):
        if batch["mask"].any():
            yield to_uint8(batch["image"][batch["mask"]])


class HeldOutEvaluation:
    """Scores and a picture of a run's parameters, on `eval.num_images` held-out photos.

    Every process holds all photos, the devices of the mesh share the work, and all processes get
    the same.

    Args:
      config: of the run.
      mesh: of the run.

    Raises:
      DataError: no such split, or an image that cannot be read.
    """

    def __init__(self, config: ml_collections.ConfigDict, mesh: Mesh):
        self._nfe = config.flow.nfe
        self._parts = builders.networks(config), builders.process(config), config.flow.spacing
        self._autoencoder: Autoencoder | None = None
        self._image_metrics = make_image_metrics(config.loss.lpips_net, mesh)
        self._lpips_params = jax.device_put(lpips.load(config.loss.lpips_net), replicated(mesh))
        self._mesh = mesh
        self._batches = list(_held_out_images(config))

    def __call__(self, params: dict) -> tuple[dict[str, float], np.ndarray]:
        """Means of PSNR, SSIM and LPIPS over all images, rounded to uint8; and the grid.

        The grid is uint8, a row an image: the original, then its reconstruction at NFE 1 and 3.
        """
        if self._autoencoder is None:
            self._autoencoder = Autoencoder(*self._parts, params, mesh=self._mesh)
        self._autoencoder.params = params
        scores: dict[str, list[np.ndarray]] = {name: [] for name in METRICS}
        for images in self._batches:
            others = self._autoencoder.reconstruct(images, self._nfe)
            values = self._image_metrics(self._lpips_params, images, others)
            for name in METRICS:
                scores[name].append(values[name])
        means = {name: float(np.mean(np.concatenate(values))) for name, values in scores.items()}
        return means, self._grid(self._batches[0][:GRID_IMAGES])

    def _grid(self, images: np.ndarray) -> np.ndarray:
        reconstructions = [self._autoencoder.reconstruct(images, steps) for steps in GRID_STEPS]
        rows = np.concatenate([images, *reconstructions], axis=2)
        return rows.reshape(-1, *rows.shape[2:])
