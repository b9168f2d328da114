"""Selects what the report shows: some images, variation over seeds, decoding step by step."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from epsilon_vae.data.decode import ImageDecoding
from epsilon_vae.data.pipeline import BadRecords
from epsilon_vae.data.records import Record
from epsilon_vae.data.sources import evenly_spaced
from epsilon_vae.data.transforms import to_uint8
from epsilon_vae.evaluation.images import Batch, batches
from epsilon_vae.evaluation.measuring import Key, MetricAccumulator, main_nfe
from epsilon_vae.evaluation.page import BYTES_PER_PIXEL
from epsilon_vae.evaluation.reconstructors import Reconstructor, Run, stem
from epsilon_vae.evaluation.report import Gallery, ReportImage, SeedVariation, Trajectory
from epsilon_vae.keys import is_larger_better
from epsilon_vae.names import printable
from epsilon_vae.parallel import hosts

# At least 16 images; at 128 px, 64.
GALLERY_IMAGES, GALLERY_PIXELS = 16, 2**20
WORST_IMAGES = 10
# Of the gallery, for which seeds are varied and trajectories made.
CLOSE_IMAGES = 4
SEEDS = 8
TRAJECTORY_STEPS = 10
# That a report's pictures may take.
BUDGET_BYTES = 100e6
# Metrics with a list of the worst images: PSNR, SSIM, LPIPS of two networks.
LISTS = 4


class Amount(NamedTuple):
    """How many images of a resolution are shown: in the gallery, in a list of worst ones, close."""

    gallery: int
    worst: int
    close: int


def amounts(
    resolutions: Sequence[int], num_reconstructors: int, *, num_runs: int, num_keys: int
) -> dict[int, Amount]:
    """Chooses as many images of each resolution as the budget allows, `CLOSE_IMAGES` at least.

    What a resolution leaves of its equal part, the larger ones have.

    Args:
      resolutions: all, of the report.
      num_reconstructors: each with lists of worst images at one NFE.
      num_runs: of the reconstructors, that seeds are varied and trajectories made of.
      num_keys: reconstructors at each NFE.
    """
    left, found = BUDGET_BYTES, {}
    for i, resolution in enumerate(sorted(resolutions)):
        gallery = max(GALLERY_IMAGES, GALLERY_PIXELS // resolution**2)
        pictures = gallery * (1 + num_keys)
        # An original and one picture each.
        pictures += 2 * WORST_IMAGES * LISTS * num_reconstructors
        pictures += CLOSE_IMAGES * num_runs * (2 * TRAJECTORY_STEPS + 2)
        needed = pictures * resolution**2 * BYTES_PER_PIXEL
        share = min(1, left / (len(resolutions) - i) / needed)
        left -= share * needed
        found[resolution] = Amount(
            max(CLOSE_IMAGES, int(share * gallery)),
            int(share * WORST_IMAGES),
            int(share * CLOSE_IMAGES),
        )
    return found


def worst_images(
    accumulators: dict[Key, MetricAccumulator], keys: Sequence[Key], count: int
) -> dict[tuple[str, Key], list[int]]:
    """(metric, key) → indices of `count` images that come off worst, the worst first."""
    worst = {}
    for key in keys:
        for metric in accumulators[key].values:
            if metric == "ssim_range2":
                continue  # ranks as ssim does, nearly
            values = accumulators[key].per_image(metric)
            order = np.argsort(values if is_larger_better(metric) else -values, kind="stable")
            worst[metric, key] = order[:count].tolist()
    return worst


class ReportImages:
    """Fills a `Gallery`, one resolution after the other; all processes call alike.

    Args:
      reconstructors: of the evaluation.
      source: of its images.
      resolutions: all that will be added.
      steps: NFEs.
      crop: one of `transforms.EVALUATION_CROPS`.
      decoding: of the images' files.
      seed: of the noise; variation is over this one and those after it.
      batch_size: as in `measure`, so that what was compiled there serves here.
    """

    def __init__(
        self,
        reconstructors: Sequence[Reconstructor],
        source: Sequence[Record],
        *,
        resolutions: Sequence[int],
        steps: Sequence[int],
        crop: str,
        decoding: ImageDecoding,
        seed: int,
        batch_size: int,
    ):
        self._reconstructors, self._source, self._steps = reconstructors, source, steps
        self._crop, self._seed, self._batch_size = crop, seed, batch_size
        self._decoding = decoding
        self._keys = [(s.name, nfe) for s in reconstructors for nfe in s.nfes(steps)]
        self._main_keys = [(s.name, main_nfe(s.nfes(steps))) for s in reconstructors]
        num_runs = sum(isinstance(reconstructor, Run) for reconstructor in reconstructors)
        self._amounts = amounts(
            resolutions, len(reconstructors), num_runs=num_runs, num_keys=len(self._keys)
        )
        self.pictures = Gallery(images=[], worst={}, seeds=[], trajectories=[])

    def add(self, resolution: int, accumulators: dict[Key, MetricAccumulator]) -> None:
        """Adds the pictures of a resolution; only process 0 has its accumulators."""
        amount = self._amounts[resolution]
        gallery = evenly_spaced(len(self._source), amount.gallery)
        named: dict[int, set[Key]] = {}  # index → whose list of worst images it is in
        if accumulators and amount.worst:
            worst = worst_images(accumulators, self._main_keys, amount.worst)
            for (metric, key), indices in worst.items():
                self.pictures.worst[resolution, metric, key] = indices
                for index in indices:
                    named.setdefault(index, set()).add(key)
        others = np.zeros(len(self._source), bool)
        others[[*named]] = True
        others[gallery] = False
        others = np.flatnonzero(hosts.array_from_first(others))
        values = {
            key: {name: accumulator.per_image(name) for name in accumulator.values}
            for key, accumulator in accumulators.items()
        }
        for batch in self._batches(resolution, gallery):
            self._add_images(batch, self._keys, values)
        for batch in self._batches(resolution, others):
            self._add_images(batch, self._main_keys, values, named)
        close = gallery[evenly_spaced(len(gallery), amount.close)]
        for batch in self._batches(resolution, close):
            self._look_closely(batch)
        self.pictures.shown.append(self._shown(resolution, amount))

    def _shown(self, resolution: int, amount: Amount) -> str:
        """How many are shown, in words."""
        size = len(self._source)
        text = f"{resolution} px: {min(amount.gallery, size)} of {size} images, evenly spaced"
        if amount.worst:
            text += f", and the worst {min(amount.worst, size)} by each metric"
        if amount.close < CLOSE_IMAGES:
            text += f"; more would make this file larger than {BUDGET_BYTES / 1e6:.0f} MB"
        return text

    def _batches(self, resolution: int, indices: np.ndarray) -> Iterator[Batch]:
        unread = BadRecords(0, len(indices))  # All have been read before.
        return batches(
            self._source,
            indices,
            batch_size=self._batch_size,
            resolution=resolution,
            crop=self._crop,
            decoding=self._decoding,
            bad_records=unread,
        )

    def _add_images(
        self,
        batch: Batch,
        keys: Sequence[Key],
        values: dict[Key, dict[str, np.ndarray]],
        named: dict[int, set[Key]] | None = None,
    ) -> None:
        """Pictures of all keys, or only of those that `named` has for an image."""
        pictures: dict[Key, np.ndarray] = {}
        for reconstructor in self._reconstructors:
            code = reconstructor.encode(batch)
            for nfe in reconstructor.nfes(self._steps):
                if (reconstructor.name, nfe) in keys:
                    pictures[reconstructor.name, nfe] = reconstructor.decode(code, nfe, self._seed)
        for i, index in enumerate(batch.indices[: batch.count].tolist() if values else ()):
            own = keys if named is None else [key for key in keys if key in named[index]]
            self.pictures.images.append(
                ReportImage(
                    index=index,
                    name=printable(stem(batch.names[i])),
                    resolution=batch.images.shape[1],
                    original=batch.images[i],
                    reconstructions={key: pictures[key][i] for key in own},
                    metrics={key: _at(index, values[key]) for key in own},
                )
            )

    def _look_closely(self, batch: Batch) -> None:
        """Variation over seeds, and trajectories, of reconstructors that start from noise."""
        for reconstructor in self._reconstructors:
            if not (isinstance(reconstructor, Run) and reconstructor.autoencoder.is_diffusion):
                continue
            latents, nfe = reconstructor.encode(batch), main_nfe(reconstructor.nfes(self._steps))
            seeds = range(self._seed, self._seed + SEEDS)
            draws = [reconstructor.decode(latents, nfe, seed)[: batch.count] for seed in seeds]
            deviation = np.std(np.asarray(draws, np.float32), axis=0).mean(axis=-1)
            for i, index in enumerate(batch.indices[: batch.count].tolist()):
                place = {
                    "index": index,
                    "resolution": batch.images.shape[1],
                    "reconstructor": reconstructor.name,
                }
                variation = SeedVariation(**place, nfe=nfe, num_seeds=SEEDS, deviation=deviation[i])
                self.pictures.seeds.append(variation)
                times, states, estimates = reconstructor.autoencoder.trajectory(
                    latents[i], TRAJECTORY_STEPS, self._seed
                )
                trajectory = Trajectory(
                    **place, times=times, states=to_uint8(states), estimates=to_uint8(estimates)
                )
                self.pictures.trajectories.append(trajectory)


def _at(index: int, values: dict[str, np.ndarray]) -> dict[str, float]:
    return {name: float(array[index]) for name, array in values.items()}
