"""The evaluation during training: means over held-out photos, and a grid."""

from collections.abc import Sequence
from typing import Any

import ml_collections
import numpy as np
from jax.sharding import Mesh

from epsilon_vae.data.decode import ImageDecoding
from epsilon_vae.data.named import open_part
from epsilon_vae.data.pipeline import BadRecords
from epsilon_vae.data.records import Record
from epsilon_vae.data.sources import evenly_spaced
from epsilon_vae.evaluation.images import Batch, batches
from epsilon_vae.evaluation.measuring import MetricAccumulator
from epsilon_vae.evaluation.reconstruction_metrics import GROUP_SIZE, ReconstructionMetrics
from epsilon_vae.evaluation.reconstructors import stem
from epsilon_vae.inference.autoencoder import Autoencoder
from epsilon_vae.inference.encoding import measure_latents
from epsilon_vae.models.build import build_networks, build_process
from epsilon_vae.names import printable
from epsilon_vae.run.captions import captioned

GRID_IMAGES = 8
GRID_STEPS = (1, 3)


class HeldOutEvaluation:
    """Scores and a picture of a run's parameters, on `eval.num_images` held-out images.

    Every process holds all photos, the devices of the mesh share the work, and all processes get
    the same.

    Args:
      config: of the run.
      mesh: of the run.
      trained_on: images that the run is trained on.

    Attributes:
      names: of the scores.

    Raises:
      DataError: no such split, or an image that cannot be read.
    """

    def __init__(self, config: ml_collections.ConfigDict, mesh: Mesh, trained_on: Sequence[Record]):
        self._data, self._trained_on = config.data, trained_on
        self._nfe = config.flow.nfe
        self._parts = {
            "networks": build_networks(config),
            "process": build_process(config),
            "spacing": config.flow.spacing,
        }
        self._autoencoder: Autoencoder | None = None
        self._measures = ReconstructionMetrics((config.loss.lpips_net,), (), mesh)
        self.names = self._measures.names
        self._mesh = mesh
        data = config.data
        source = open_part(data, "val").source
        indices = evenly_spaced(len(source), config.eval.num_images)
        max_share = data.max_bad_share if data.on_bad_record == "skip" else 0
        size, bad_records = self._measures.batch_size, BadRecords(max_share, len(indices))
        # They stay in memory, since every evaluation sees them again.
        self._batches = list(
            batches(
                source,
                indices,
                batch_size=size,
                resolution=data.resolution,
                crop=config.eval.crop,
                decoding=ImageDecoding.of(data),
                bad_records=bad_records,
            )
        )

    def __call__(self, params: dict, step: int) -> tuple[dict[str, float], np.ndarray]:
        """Means of `names` over all images, rounded to uint8; and the grid.

        The grid is uint8, a row an image: the original, then its reconstruction at NFE 1 and 3, or
        the only one without diffusion. Captions are names and PSNR; the title is of the `step`.
        """
        autoencoder, accumulator = self._of(params), MetricAccumulator()
        for batch in self._batches:
            pictures = autoencoder.reconstruct(batch.images, self._nfe)[: batch.count]
            accumulator.add(self._measures.compare(batch.images[: batch.count], pictures), {})
        means = accumulator.means()
        title = f"step {step}, mean PSNR {means['psnr']:.2f} dB"
        if autoencoder.is_diffusion:
            title += f" at NFE {self._nfe}"
        return means, self._grid(autoencoder, self._batches[0], title)

    def latents(self, params: dict) -> dict[str, Any]:
        """Mean and deviation of the latents of images that the run is trained on."""
        found = measure_latents(
            self._of(params), self._trained_on, self._data, batch_size=self._measures.batch_size
        )
        return {"normalization": found._asdict()} if found else {}

    def _of(self, params: dict) -> Autoencoder:
        """The autoencoder with these parameters, compiled once."""
        if self._autoencoder is None:
            self._autoencoder = Autoencoder(
                **self._parts,
                params=params,
                mesh=self._mesh,
                group_size=GROUP_SIZE if self._mesh.shape["space"] == 1 else 1,
                origin="the EMA",
            )
        self._autoencoder.params = params
        return self._autoencoder

    def _grid(self, autoencoder: Autoencoder, batch: Batch, title: str) -> np.ndarray:
        columns, heads = [batch.images], ["original"]
        captions = [[printable(stem(name)) for name in batch.names]]
        for nfe in dict.fromkeys(map(autoencoder.nfe, GRID_STEPS)):
            pictures = autoencoder.reconstruct(batch.images, nfe)
            columns.append(pictures)
            heads.append(f"NFE {nfe}" if autoencoder.is_diffusion else "reconstruction")
            scores = self._measures.compare(batch.images, pictures)["psnr"]
            captions.append([f"PSNR {score:.2f} dB" for score in scores])
        count = min(batch.count, GRID_IMAGES)
        images = np.stack(columns, axis=1)[:count]
        return captioned(
            images.reshape(-1, *images.shape[2:]),
            [caption for row in list(zip(*captions, strict=True))[:count] for caption in row],
            columns=len(columns),
            title=title,
            heads=heads,
        )
