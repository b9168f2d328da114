"""Generated images against a reference: Fréchet distance, Inception Score, precision and recall.

As ADM's suite has it (Dhariwal & Nichol 2021): both are folders or `.npz` files, of images in
`arr_0`, and a reference's may hold the moments of Inception's features, `mu` and `sigma`, as those
that ADM published do, which then are what FID is taken to.
"""

import pathlib
import zipfile
from collections.abc import Iterator

import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from epsilon_vae.data.decode import DataError, list_images, read_image
from epsilon_vae.evaluation import results
from epsilon_vae.evaluation.measures import Measures
from epsilon_vae.evaluation.protocol import Protocol
from epsilon_vae.metrics import inception
from epsilon_vae.metrics.frechet import FeatureStatistics, Gaussian, frechet_distance
from epsilon_vae.metrics.inception_score import InceptionScore
from epsilon_vae.metrics.precision_recall import precision_recall
from epsilon_vae.parallel import hosts
from epsilon_vae.pretrained import registry
from epsilon_vae.versions import versions

# Parts of the Inception Score, and neighbours of precision and recall.
SPLITS, NEIGHBOURS = 10, 3
CHUNK = 1024

FIXED = {
    "images": "as they are, not cropped; features resize them",
    "frechet": "float64, unbiased covariance; fid is over inception's 2048 features, resized as "
    "torch-fidelity does; to the reference's mu and sigma where it has them, else to its images",
    "inception_score": f"mean and deviation of {SPLITS} parts in order, logits without bias",
    "precision_recall": f"k = {NEIGHBOURS}, over all samples and all images of the reference",
}


class ImageSet:
    """uint8 images of one size, in a folder and those in it, or in the `arr_0` of an `.npz` file.

    Args:
      path: of it.

    Raises:
      DataError: there are none, or they cannot be read.
    """

    def __init__(self, path: str):
        self.path = pathlib.Path(path)
        self._files: list[pathlib.Path] = []
        if self.path.suffix == ".npz":
            try:
                with zipfile.ZipFile(self.path) as archive:
                    self.arrays = {name.removesuffix(".npy") for name in archive.namelist()}
                    shape = _header(archive)[0] if "arr_0" in self.arrays else (0,)
            except (OSError, ValueError, zipfile.BadZipFile) as error:
                raise DataError(f"{path}: cannot be read ({error})") from error
            self._count = shape[0]
        else:
            self.arrays = set()
            self._files = list_images(self.path)
            self._count = len(self._files)
        if not self._count and "mu" not in self.arrays:
            raise DataError(f"{path}: no images in it; name a folder of them, or an .npz file")

    def __len__(self) -> int:
        return self._count

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """All of them, uint8 `[B, H, W, 3]`, `size` at a time and the rest, never all in memory.

        Raises:
          DataError: one cannot be read, or has another size or type.
        """
        if self._files:
            for start in range(0, len(self), size):
                images = [read_image(file) for file in self._files[start : start + size]]
                if len({image.shape for image in images}) > 1:
                    raise DataError(f"{self._files[start]} and those after it differ in size")
                yield np.stack(images)
        elif len(self):
            yield from self._stored_batches(size)

    def gaussian(self) -> Gaussian | None:
        """`mu` and `sigma`, if it has them."""
        if not {"mu", "sigma"} <= self.arrays:
            return None
        with np.load(self.path, allow_pickle=False) as arrays:
            return Gaussian(arrays["mu"].astype(np.float64), arrays["sigma"].astype(np.float64))

    def _stored_batches(self, size: int) -> Iterator[np.ndarray]:
        with zipfile.ZipFile(self.path) as archive, archive.open("arr_0.npy") as file:
            shape, dtype = _header(archive)
            if len(shape) != 4 or shape[-1] != 3 or dtype != np.uint8:
                raise DataError(f"{self.path}: arr_0 is {dtype} {shape}, not uint8 [N, H, W, 3]")
            np.lib.format.read_magic(file)
            np.lib.format.read_array_header_1_0(file)
            for start in range(0, len(self), size):
                wanted = min(size, len(self) - start), *shape[1:]
                yield np.frombuffer(file.read(int(np.prod(wanted))), np.uint8).reshape(wanted)


def _header(archive: zipfile.ZipFile) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of `arr_0`."""
    with archive.open("arr_0.npy") as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("arr_0 is of a format that np.savez does not write")
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if is_fortran:
        raise ValueError("arr_0 is in Fortran's order")
    return shape, dtype


def evaluate_samples(
    samples: str, reference: str, protocol: Protocol, output: str, mesh: Mesh
) -> None:
    """Measures, and writes results.json and results.md; all processes call alike, the first writes.

    Features of all images are held, for precision and recall: 410 MB for 50,000 by Inception.

    Args:
      samples: folder or `.npz` file of generated images, in an order without meaning.
      reference: folder or `.npz` file of real ones.
      protocol: for its features; precision and recall are of the first of them.
      output: folder.
      mesh: of one process or all.

    Raises:
      DataError: images cannot be read, or are too few.
      WeightsError, OSError: weights that are missing, or a file that cannot be read or written.
    """
    generated, real = ImageSet(samples), ImageSet(reference)
    if len(generated) < SPLITS:
        raise DataError(f"{samples}: {len(generated)} images are too few, {SPLITS} the least")
    measures = Measures((), protocol.features, mesh)
    generated_features = _features(generated, measures)
    real_features = _features(real, measures)
    row = {"samples": samples, "num_images": len(generated), "num_reference_images": len(real)}
    for name in protocol.features:
        title = "fid" if name == "inception" else f"fd_{name}"
        target = real.gaussian() if name == "inception" else None
        if target is None and name in real_features:
            target = _gaussian(real_features[name])
        row[title] = None
        if target is not None:
            row[title] = frechet_distance(target, _gaussian(generated_features[name]))
    if "inception" in protocol.features:
        score = InceptionScore(len(generated), splits=SPLITS)
        params = registry.load("inception")
        score.update(inception.unbiased_logits(params, generated_features["inception"]))
        row["inception_score"], row["inception_score_deviation"] = score.result()
    if real_features:
        first = protocol.features[0]
        pair = precision_recall(real_features[first], generated_features[first], NEIGHBOURS)
        row |= pair._asdict()
    if hosts.is_first():
        found = {
            "protocol": {"name": protocol.name, "features": protocol.features} | FIXED,
            "reference": reference,
            "versions": versions(),
            "rows": [row],
        }
        folder = pathlib.Path(output)
        folder.mkdir(parents=True, exist_ok=True)
        results.write_json(folder / "results.json", found)
        table = _markdown(found)
        (folder / "results.md").write_text(table, encoding="utf-8")
        print(table)


def _markdown(found: dict) -> str:
    protocol, [row] = found["protocol"], found["rows"]
    measured = {name: value for name, value in row.items() if value is not None}
    texts = [f"{x:.4g}" if isinstance(x, float) else str(x) for x in measured.values()]
    lines = [
        f"Protocol `{protocol['name']}`, features {', '.join(protocol['features'])}, reference "
        f"`{found['reference']}`. The rest is in results.json.",
        "",
        results.table_line(measured),
        "|---" * len(measured) + "|",
        results.table_line(texts),
    ]
    return "\n".join(lines) + "\n"


def _features(images: ImageSet, measures: Measures) -> dict[str, np.ndarray]:
    """Of all images, `[N, d]` by name; nothing of none."""
    found: dict[str, list[np.ndarray]] = {}
    hidden = None if hosts.is_first() else True  # None: shown on a terminal
    with tqdm(total=len(images), unit="image", dynamic_ncols=True, disable=hidden) as bar:
        for batch in images.batches(measures.batch_size):
            for name, features in measures.features(batch).items():
                found.setdefault(name, []).append(features)
            bar.update(len(batch))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _gaussian(features: np.ndarray) -> Gaussian:
    statistics = FeatureStatistics.empty(features.shape[1])
    for start in range(0, len(features), CHUNK):  # it works in float64
        statistics.update(features[start : start + CHUNK])
    return statistics.gaussian()
