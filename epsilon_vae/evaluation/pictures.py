"""What the report shows of the images: a selection, variation over seeds, and films of decoding."""

from collections.abc import Iterator, Sequence

import numpy as np

from epsilon_vae.data.pipeline import BadRecords
from epsilon_vae.data.sources import Record, evenly_spaced
from epsilon_vae.data.transforms import to_uint8
from epsilon_vae.evaluation.batches import Batch, batches
from epsilon_vae.evaluation.measure import Key, Tally
from epsilon_vae.evaluation.report import Film, Pictures, ReportImage, SeedVariation
from epsilon_vae.evaluation.subjects import Run, Subject, stem
from epsilon_vae.parallel import hosts

# At least 16 images; at 128 px, 64.
GALLERY_IMAGES, GALLERY_PIXELS = 16, 2**20
WORST_IMAGES = 10
# Of the gallery, for which seeds are varied and films made.
CLOSE_IMAGES = 4
SEEDS = 8
FILM_STEPS = 10
# Higher is better; of LPIPS, lower.
SIMILARITIES = ("psnr", "ssim")


def main_nfe(nfes: Sequence[int | None]) -> int | None:
    """The paper's 3 if it is among them, else the last."""
    return 3 if 3 in nfes else nfes[-1]


def worst_images(
    tallies: dict[Key, Tally], keys: Sequence[Key]
) -> dict[tuple[str, Key], list[int]]:
    """(metric, key) → indices of the images that come off worst, the worst first."""
    worst = {}
    for key in keys:
        for metric in tallies[key].values:
            if metric == "ssim_range2":
                continue  # ranks as ssim does, nearly
            values = tallies[key].per_image(metric)
            order = np.argsort(values if metric in SIMILARITIES else -values, kind="stable")
            worst[metric, key] = order[:WORST_IMAGES].tolist()
    return worst


class Photographer:
    """Collects `Pictures` of one resolution after the other; all processes call alike.

    Args:
      subjects: of the evaluation.
      source: of its images.
      steps: NFEs.
      crop: one of `transforms.EVALUATION_CROPS`.
      seed: of the noise; variation is over this one and those after it.
      batch_size: as in `measure`, so that what was compiled there serves here.
    """

    def __init__(
        self,
        subjects: Sequence[Subject],
        source: Sequence[Record],
        steps: Sequence[int],
        crop: str,
        seed: int,
        batch_size: int,
    ):
        self._subjects, self._source, self._steps = subjects, source, steps
        self._crop, self._seed, self._batch_size = crop, seed, batch_size
        self.pictures = Pictures([], {}, [], [])

    def add(self, resolution: int, tallies: dict[Key, Tally]) -> None:
        """The pictures of a resolution, from its tallies, which process 0 has, the others not."""
        chosen = np.zeros(len(self._source), bool)
        count = max(GALLERY_IMAGES, GALLERY_PIXELS // resolution**2)
        gallery = evenly_spaced(len(self._source), count)
        chosen[gallery] = True
        if tallies:
            keys = [(s.name, main_nfe(s.nfes(self._steps))) for s in self._subjects]
            for (metric, key), indices in worst_images(tallies, keys).items():
                chosen[indices] = True
                self.pictures.worst[resolution, metric, key] = indices
        chosen = np.flatnonzero(hosts.array_from_first(chosen))
        values = {
            key: {name: tally.per_image(name) for name in tally.values}
            for key, tally in tallies.items()
        }
        for batch in self._batches(resolution, chosen):
            self._add_images(batch, values)
        close = gallery[evenly_spaced(len(gallery), CLOSE_IMAGES)]
        for batch in self._batches(resolution, close):
            self._look_closely(batch)

    def _batches(self, resolution: int, indices: np.ndarray) -> Iterator[Batch]:
        unread = BadRecords(0, len(indices))  # All have been read before.
        return batches(self._source, indices, self._batch_size, resolution, self._crop, unread)

    def _add_images(self, batch: Batch, values: dict[Key, dict[str, np.ndarray]]) -> None:
        pictures: dict[Key, np.ndarray] = {}
        for subject in self._subjects:
            code = subject.encode(batch)
            for nfe in subject.nfes(self._steps):
                pictures[subject.name, nfe] = subject.decode(code, nfe, self._seed)
        for i, index in enumerate(batch.indices[: batch.count].tolist() if values else ()):
            metrics = {
                key: {name: float(array[index]) for name, array in values[key].items()}
                for key in pictures
            }
            self.pictures.images.append(
                ReportImage(
                    index,
                    stem(batch.names[i]),
                    batch.images.shape[1],
                    batch.images[i],
                    {key: images[i] for key, images in pictures.items()},
                    metrics,
                )
            )

    def _look_closely(self, batch: Batch) -> None:
        """Variation over seeds, and films, of subjects that start from noise."""
        for subject in self._subjects:
            if not isinstance(subject, Run):
                continue
            latents, nfe = subject.encode(batch), main_nfe(subject.nfes(self._steps))
            seeds = range(self._seed, self._seed + SEEDS)
            draws = [subject.decode(latents, nfe, seed)[: batch.count] for seed in seeds]
            deviation = np.std(np.asarray(draws, np.float32), axis=0).mean(axis=-1)
            for i, index in enumerate(batch.indices[: batch.count].tolist()):
                place = index, batch.images.shape[1], subject.name
                variation = SeedVariation(*place, nfe, SEEDS, deviation[i])
                self.pictures.seeds.append(variation)
                times, states, estimates = subject.autoencoder.trajectory(
                    latents[i], FILM_STEPS, self._seed
                )
                film = Film(*place, times, to_uint8(states), to_uint8(estimates))
                self.pictures.films.append(film)
