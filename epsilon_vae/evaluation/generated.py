"""Generated images against a reference: Fréchet distance, Inception Score, precision and recall.

As ADM's suite has it (Dhariwal & Nichol 2021): both are folders of images, or `.npz` or `.npy`
files of them. A reference's may hold the moments of Inception's features, `mu` and `sigma`, as
those that ADM published do, which then are what FID is taken to.
"""

import pathlib
from collections.abc import Sequence

import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from epsilon_vae.data.decode import DataError
from epsilon_vae.data.image_set import ImageSet, is_array
from epsilon_vae.evaluation import results
from epsilon_vae.evaluation.features import DESCRIPTIONS
from epsilon_vae.evaluation.generated_report import Shown, shown_of, write_samples_report
from epsilon_vae.evaluation.images import CroppedImages
from epsilon_vae.evaluation.protocols import CROPS, Protocol, distance_name
from epsilon_vae.evaluation.reconstruction_metrics import ReconstructionMetrics
from epsilon_vae.evaluation.tables import cell, in_words
from epsilon_vae.metrics import inception
from epsilon_vae.metrics.frechet import FeatureStatistics, Gaussian, frechet_distance
from epsilon_vae.metrics.inception_score import InceptionScore
from epsilon_vae.metrics.labels import heading
from epsilon_vae.metrics.precision_recall import precision_recall
from epsilon_vae.names import encode, printable
from epsilon_vae.names import markdown as escape
from epsilon_vae.parallel import hosts
from epsilon_vae.pretrained import registry
from epsilon_vae.versions import versions

# Parts of the Inception Score, and neighbours of precision and recall.
SPLITS, NEIGHBOURS = 10, 3
# Of the protocol, what says something about images that are measured as they are.
KEYS = ("name", "features", "crop", "profiles", "max_pixels")
CHUNK = 1024  # of what works in float64

FIXED = {
    "images": "samples as they are, photos of the reference cropped to their size; features "
    "resize them",
    "frechet": "float64, unbiased covariance; fid to the reference's mu and sigma where it has "
    "them, else to its images",
    "inception_score": f"mean and deviation of {SPLITS} parts, logits without bias; images in the "
    "order of np.random.RandomState(0).permutation",
    "precision_recall": f"k = {NEIGHBOURS}, over all samples and all images of the reference, by "
    "the first features, whose name they carry unless it is inception",
}


def evaluate_samples(
    samples: str, reference: str, *, protocol: Protocol, output: str, mesh: Mesh
) -> None:
    """Measures, and writes results.json, results.md and report.html.

    All processes call alike, the first writes. It takes one pass, of which nothing is kept when it
    is stopped. Features of all images are held, for precision and recall: 410 MB for 50,000 by
    Inception.

    Args:
      samples: folder or `.npz` file of generated images.
      reference: photos, as `CroppedImages` takes them, or an `.npz` file as `ImageSet`'s.
      protocol: for its crop of the reference, how files are decoded, and its features; precision
        and recall are of the first of them.
      output: folder.
      mesh: of one process or all.

    Raises:
      DataError: images or moments cannot be read, or are too few.
      WeightsError, OSError: weights that are missing, or a file that cannot be read or written.
    """
    generated = ImageSet(samples, protocol.decoding())
    real = _open_reference(reference, generated, protocol)
    has_inception = "inception" in protocol.features
    moments = real.moments(inception.NUM_FEATURES) if has_inception else None
    given = None if moments is None else Gaussian(*moments)
    _check_numbers(generated, real, protocol.features, given)
    metrics = ReconstructionMetrics((), protocol.features, mesh)
    generated_features, samples_shown = _features(generated, metrics)
    real_features, reference_shown = _features(real, metrics)
    row = {
        "samples": str(generated.path),
        "num_images": len(generated),
        "num_reference_images": len(real),
    }
    notes = []
    for name, features in generated_features.items():
        title = distance_name(name, "fid")
        if name == "inception" and given is not None:
            target, num_images = given, len(generated)
        else:
            target, num_images = _gaussian(real_features[name]), min(len(generated), len(real))
        row[title] = frechet_distance(target, _gaussian(features))
        notes += results.notes_on_distance(title, features.shape[1], num_images)
    if "inception" in generated_features:
        score = _inception_score(generated_features["inception"])
        row["inception_score"], row["inception_score_deviation"] = score
    if real_features:
        row |= _precision_recall(protocol.features[0], real_features, generated_features)
    if hosts.is_first():
        sets = [
            Shown("Samples", len(generated), samples_shown),
            Shown("Reference", len(real), reference_shown),
        ]
        _write(pathlib.Path(output), protocol, reference, row | {"notes": notes}, sets)
    # At the end of the program JAX waits for process 0 no longer than its timeout of shutting down.
    hosts.barrier("samples measured")


def _open_reference(path: str, generated: ImageSet, protocol: Protocol) -> ImageSet | CroppedImages:
    if is_array(path):
        return ImageSet(path)
    height, width = generated.size()
    if height != width:
        raise DataError(f"{generated.path}: {width}x{height} pixels; photos are cropped to squares")
    crop = CROPS[protocol.crop]
    return CroppedImages(path, height, crop=crop, decoding=protocol.decoding())


def _check_numbers(
    generated: ImageSet,
    real: ImageSet | CroppedImages,
    features: Sequence[str],
    moments: Gaussian | None,
) -> None:
    """Raises `DataError` where images are too few for what will be computed of them."""
    if len(generated) < SPLITS:
        raise DataError(
            f"{generated.path}: {len(generated)} images are too few, {SPLITS} the least"
        )
    of_images = [name for name in features if name != "inception" or moments is None]
    if of_images and not len(real):
        raise DataError(
            f"{real.path}: no images in it, and {distance_name(of_images[0], 'fid')} needs them"
        )
    if 0 < len(real) <= NEIGHBOURS:
        raise DataError(f"{real.path}: {len(real)} images are too few, {NEIGHBOURS + 1} the least")


def _features(
    images: ImageSet | CroppedImages, metrics: ReconstructionMetrics
) -> tuple[dict[str, np.ndarray], dict[int, np.ndarray]]:
    """Features of all images, `[N, d]` by name, and the pictures to show, by index."""
    found: dict[str, list[np.ndarray]] = {}
    pictures: dict[int, np.ndarray] = {}
    start = 0
    hidden = None if hosts.is_first() else True  # None: shown on a terminal
    with tqdm(total=len(images), unit="image", dynamic_ncols=True, disable=hidden) as bar:
        for batch in images.batches(metrics.batch_size):
            for name, features in metrics.features(batch).items():
                found.setdefault(name, []).append(features)
            pictures |= shown_of(batch, start, len(images))
            start += len(batch)
            bar.update(len(batch))
    return {name: np.concatenate(parts) for name, parts in found.items()}, pictures


def _gaussian(features: np.ndarray) -> Gaussian:
    statistics = FeatureStatistics.empty(features.shape[1])
    for start in range(0, len(features), CHUNK):
        statistics.update(features[start : start + CHUNK])
    return statistics.gaussian()


def _inception_score(features: np.ndarray) -> tuple[float, float]:
    """Mean and deviation over parts, whose images are drawn: a folder has them class by class."""
    score = InceptionScore(len(features), splits=SPLITS)
    params = registry.load("inception")
    order = np.random.RandomState(0).permutation(len(features))
    for start in range(0, len(features), CHUNK):
        some = features[order[start : start + CHUNK]]
        score.update(inception.unbiased_logits(params, some))
    return score.result()


def _precision_recall(
    name: str, real: dict[str, np.ndarray], generated: dict[str, np.ndarray]
) -> dict[str, float]:
    """'precision' and 'recall' by Inception's features; by others, under names with theirs."""
    suffix = "" if name == "inception" else f"_{name}"
    found = precision_recall(real[name], generated[name], NEIGHBOURS)._asdict()
    return {f"{key}{suffix}": share for key, share in found.items()}


def _write(
    folder: pathlib.Path, protocol: Protocol, reference: str, row: dict, sets: list[Shown]
) -> None:
    features = {distance_name(name, "fid"): DESCRIPTIONS[name] for name in protocol.features}
    found = {
        "protocol": {key: getattr(protocol, key) for key in KEYS} | FIXED | features,
        "reference": reference,
        "versions": versions(),
        "rows": [row],
    }
    folder.mkdir(parents=True, exist_ok=True)
    results.write_json(folder / "results.json", found)
    (folder / "results.md").write_bytes(encode(_markdown(found)))
    write_samples_report(folder / "report.html", found, sets)
    print(_text(found), end="\n\n")


def _numbers(row: dict) -> dict[str, str]:
    """What is measured, and of what, as people read it."""
    counts = {"num_images": "Images", "num_reference_images": "Reference images"}
    return {counts[name]: str(row[name]) for name in counts} | {
        heading(name): cell(name, value)["text"]
        for name, value in row.items()
        if isinstance(value, float)
    }


def _markdown(found: dict) -> str:
    protocol, [row] = found["protocol"], found["rows"]
    numbers = {"Samples": escape(row["samples"])} | _numbers(row)
    lines = [
        f"Protocol `{protocol['name']}`, features {', '.join(protocol['features'])}, reference "
        f"{escape(found['reference'])}. The rest is in results.json.",
        "",
        results.table_line(numbers),
        "|---" * len(numbers) + "|",
        results.table_line(numbers.values()),
        "",
        *(f"- {in_words(note)}" for note in row["notes"]),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _text(found: dict) -> str:
    protocol, [row] = found["protocol"], found["rows"]
    numbers = _numbers(row)
    lines = [
        f"{row['samples']}, against {found['reference']}",
        f"Protocol {protocol['name']}, features {', '.join(protocol['features'])}",
        "",
        *results.side_by_side(list(numbers), [list(numbers.values())], 0),
        "",
        *map(in_words, row["notes"]),
    ]
    return "\n".join(map(printable, lines)).rstrip()
