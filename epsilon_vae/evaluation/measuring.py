"""One pass over the images at one resolution: every reconstructor's numbers, and where it stopped.

Sums are float64 on process 0; batch size, devices and stops do not change what they come to.
"""

import copy
import dataclasses
import pathlib
import time
from collections.abc import Callable, Sequence

import numpy as np
from absl import logging

from epsilon_vae.data.pipeline import BadRecords
from epsilon_vae.data.records import Record
from epsilon_vae.data.sources import evenly_spaced
from epsilon_vae.errors import reason
from epsilon_vae.evaluation.images import Batch, batches
from epsilon_vae.evaluation.protocols import CROPS, Protocol, noisy
from epsilon_vae.evaluation.reconstruction_metrics import ReconstructionMetrics
from epsilon_vae.evaluation.reconstructors import Reconstructor
from epsilon_vae.metrics.frechet import FeatureStatistics
from epsilon_vae.output import replacing
from epsilon_vae.parallel import hosts
from epsilon_vae.versions import devices

SAVE_EVERY_SECONDS = 60
# Images whose latents say what noise of one standard deviation is.
DEVIATION_IMAGES = 256
# Rows of features that are added to their moments at once: 2048 of them long, 4 take as long as 32.
ROWS = 512

Key = tuple[str, int | None]  # a reconstructor's name, and NFE or None


def main_nfe(nfes: Sequence[int | None]) -> int | None:
    """The paper's 3 if it is among them, else the last."""
    return 3 if 3 in nfes else nfes[-1]


class MetricAccumulator:
    """Accumulates what is measured of one reconstructor at one NFE, or of the originals.

    Attributes:
      values: metric → an array of each batch, `[B]`.
      seconds: that decoding took, an image; of each batch.
    """

    def __init__(self):
        self.values: dict[str, list[np.ndarray]] = {}
        self.seconds: list[float] = []
        self._statistics: dict[str, FeatureStatistics] = {}
        self._rows: dict[str, np.ndarray] = {}  # fewer than ROWS, not in the moments yet

    def add(
        self,
        values: dict[str, np.ndarray],
        features: dict[str, np.ndarray],
        seconds: Sequence[float] = (),
    ) -> None:
        """A batch's metrics `[B]`, features `[B, d]`, and the time of an image."""
        for name, array in values.items():
            self.values.setdefault(name, []).append(array)
        for name, array in features.items():
            if name not in self._rows:
                self._statistics[name] = FeatureStatistics.empty(array.shape[1])
                self._rows[name] = array[:0]
            rows = np.concatenate([self._rows[name], array])
            while len(rows) >= ROWS:
                self._statistics[name].update(rows[:ROWS])
                rows = rows[ROWS:]
            self._rows[name] = rows
        self.seconds.extend(seconds)

    def statistics(self) -> dict[str, FeatureStatistics]:
        """Name of features → moments of all of them."""
        found = copy.deepcopy(self._statistics)
        for name, rows in self._rows.items():
            found[name].update(rows)
        return found

    def per_image(self, name: str) -> np.ndarray:
        """A metric of each image, `[N]`, float64."""
        return np.concatenate(self.values[name]).astype(np.float64)

    def means(self) -> dict[str, float]:
        """The mean of each metric over images."""
        return {name: float(self.per_image(name).mean()) for name in self.values}

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it by name, for `np.savez`."""
        arrays = {f"values/{name}": np.concatenate(parts) for name, parts in self.values.items()}
        for name, statistics in self._statistics.items():
            arrays |= {f"statistics/{name}/{k}": v for k, v in vars(statistics).items()}
            arrays[f"rows/{name}"] = self._rows[name]
        return arrays | {"seconds": np.array(self.seconds)}

    def check(self, count: int) -> None:
        """Raises `ValueError` unless this is of so many images, in all that is measured."""
        found = {len(self.per_image(name)) for name in self.values}
        found |= {self._statistics[name].count + len(rows) for name, rows in self._rows.items()}
        if found - {count}:
            raise ValueError(f"{sorted(found)} images instead of {count}")

    @classmethod
    def of_arrays(cls, arrays: dict[str, np.ndarray]) -> "MetricAccumulator":
        """Reads what `arrays` gave."""
        accumulator = cls()
        moments: dict[str, dict] = {}
        for path, array in arrays.items():
            kind, _, name = path.partition("/")
            if kind == "values":
                accumulator.values[name] = [array]
            elif kind == "rows":
                accumulator._rows[name] = array
            elif kind == "statistics":
                features, part = name.split("/")
                moments.setdefault(features, {})[part] = int(array) if part == "count" else array
        accumulator._statistics = {
            name: FeatureStatistics(**parts) for name, parts in moments.items()
        }
        accumulator.seconds = list(arrays["seconds"])
        return accumulator


@dataclasses.dataclass
class Progress:
    """How far a pass has come.

    Attributes:
      names: of the images that are done.
      accumulators: of them.
      setting: that times of decoding depend on: devices, processes, batch size.
    """

    names: list[str]
    accumulators: dict[Key, MetricAccumulator]
    setting: str

    def save(self, path: pathlib.Path) -> None:
        """Writes the file, whole or not at all."""
        arrays = {"names": np.array(self.names), "setting": np.array(self.setting)}
        for index, accumulator in enumerate(self.accumulators.values()):
            arrays |= {f"{index}/{name}": array for name, array in accumulator.arrays().items()}
        with replacing(path) as partial, partial.open("wb") as file:
            np.savez(file, **arrays)

    @classmethod
    def load(cls, path: pathlib.Path, keys: Sequence[Key], setting: str) -> "Progress":
        """Loads what `save` wrote of accumulators of these keys; without a file, the start.

        A file that cannot be read is removed, with a warning: what it held is measured again. Times
        of decoding in another setting are left out.
        """
        if path.exists():
            try:
                return cls._read(path, keys, setting)
            except Exception as error:  # NumPy and zipfile raise many kinds for broken files
                logging.warning("%s: is damaged (%s); the pass starts anew", path, reason(error))
                path.unlink()
        return cls([], {key: MetricAccumulator() for key in keys}, setting)

    @classmethod
    def _read(cls, path: pathlib.Path, keys: Sequence[Key], setting: str) -> "Progress":
        parts: dict[str, dict] = {}
        with np.load(path, allow_pickle=False) as arrays:
            names, is_same_setting = arrays["names"].tolist(), arrays["setting"] == setting
            for name in arrays.files:
                index, _, rest = name.partition("/")
                if rest:
                    parts.setdefault(index, {})[rest] = arrays[name]
        accumulators = {
            key: MetricAccumulator.of_arrays(parts[str(i)]) for i, key in enumerate(keys)
        }
        for accumulator in accumulators.values():
            accumulator.check(len(names))
        if not is_same_setting:
            for accumulator in accumulators.values():
                accumulator.seconds = []
        return cls(names, accumulators, setting)


ORIGINALS: Key = ("", None)


def measure(
    reconstructors: Sequence[Reconstructor],
    source: Sequence[Record],
    *,
    resolution: int,
    steps: Sequence[int],
    protocol: Protocol,
    metrics: ReconstructionMetrics,
    file: pathlib.Path,
    advance: Callable[[int], None],
    keep: Callable[[Batch, Key, np.ndarray], None] | None = None,
) -> Progress | None:
    """All reconstructors on all images of a source at one resolution, in one pass.

    Args:
      reconstructors: at all of `steps`, if they have NFEs.
      source: of the images.
      resolution: of the crops.
      steps: NFEs.
      protocol: says the crops, the noise's seed, and the noise of latents.
      metrics: what is measured.
      file: of the progress, saved every minute; the pass resumes from it.
      advance: called with numbers of images that are done.
      keep: called with each batch's originals and pictures.

    Returns:
      On process 0, the names of all images, and the accumulators of each reconstructor at each
      NFE and of the `ORIGINALS`; None on the others.

    Raises:
      DataError, ReconstructorError: an image or a picture cannot be used.
    """
    keys = [(s.name, nfe) for s in reconstructors for nfe in s.nfes(steps)]
    setting = f"{', '.join(devices().values())} processes, batches of {metrics.batch_size}"
    progress = Progress.load(file, [ORIGINALS, *keys], setting) if hosts.is_first() else None
    start = hosts.broadcast_from_first(len(progress.names) if progress else 0)
    advance(start)
    bad_records = BadRecords(0, len(source), "replace it, or take it out of the data")
    crop, seed = CROPS[protocol.crop], protocol.seed
    if protocol.latent_noise:
        some = evenly_spaced(len(source), DEVIATION_IMAGES)
        for reconstructor in reconstructors:
            seen = batches(
                source,
                some,
                batch_size=metrics.batch_size,
                resolution=resolution,
                crop=crop,
                decoding=protocol.decoding(),
                bad_records=bad_records,
            )
            reconstructor.learn_deviation(
                reconstructor.encode(batch)[: batch.count] for batch in seen
            )
    saved_at, warm = time.monotonic(), False
    rest = range(start, len(source))
    for batch in batches(
        source,
        rest,
        batch_size=metrics.batch_size,
        resolution=resolution,
        crop=crop,
        decoding=protocol.decoding(),
        bad_records=bad_records,
    ):
        if keep:
            keep(batch, ORIGINALS, batch.images)
        originals = batch.images[: batch.count]
        results = {ORIGINALS: ({}, metrics.features(originals), ())}
        for reconstructor in reconstructors:
            code = reconstructor.encode(batch)
            for nfe in reconstructor.nfes(steps):
                if not warm:
                    reconstructor.decode(code, nfe, seed)  # compiles, and is not timed
                begin = time.perf_counter()
                pictures = reconstructor.decode(code, nfe, seed)
                seconds = (time.perf_counter() - begin) / len(pictures)
                pictures = pictures[: batch.count]
                if keep:
                    keep(batch, (reconstructor.name, nfe), pictures)
                features = metrics.features(pictures)
                for tau in protocol.latent_noise:
                    noisy_code = reconstructor.add_noise(code, tau, batch=batch, seed=seed)
                    if noisy_code is not None:
                        noisy_pictures = reconstructor.decode(noisy_code, nfe, seed)
                        found = metrics.features(noisy_pictures[: batch.count])
                        features |= {noisy(name, tau): array for name, array in found.items()}
                results[reconstructor.name, nfe] = (
                    metrics.compare(originals, pictures),
                    features,
                    (seconds,) if reconstructor.decodes else (),
                )
        warm = True
        start += batch.count
        advance(batch.count)
        if progress:
            for key, result in results.items():
                progress.accumulators[key].add(*result)
            progress.names.extend(batch.names[: batch.count].tolist())
            if time.monotonic() - saved_at > SAVE_EVERY_SECONDS or start == len(source):
                progress.save(file)
                saved_at = time.monotonic()
    return progress
