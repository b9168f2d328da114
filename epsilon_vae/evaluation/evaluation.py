"""A whole evaluation: reconstructors, images and resolutions, to numbers, plots and the report."""

import functools
import hashlib
import json
import pathlib
import shutil
from collections.abc import Sequence

import ml_collections
import numpy as np
from jax.sharding import Mesh
from PIL import Image
from tqdm import tqdm

from epsilon_vae.data.named import Data, open_part
from epsilon_vae.data.sources import Subset, evenly_spaced
from epsilon_vae.evaluation import plots, results
from epsilon_vae.evaluation.images import Batch
from epsilon_vae.evaluation.measuring import ORIGINALS, Key, measure
from epsilon_vae.evaluation.paper import paper_rows
from epsilon_vae.evaluation.pictures import ReportImages
from epsilon_vae.evaluation.protocols import CROPS, Protocol
from epsilon_vae.evaluation.reconstruction_metrics import MIN_RESOLUTION, ReconstructionMetrics
from epsilon_vae.evaluation.reconstructors import (
    Reconstructor,
    ReconstructorError,
    Run,
    picture_name,
)
from epsilon_vae.evaluation.report import Gallery, write_report
from epsilon_vae.names import encode
from epsilon_vae.parallel import hosts
from epsilon_vae.versions import versions

LPIPS_NETS = ("vgg16", "alexnet")


def held_out_data(config: ml_collections.ConfigDict) -> Data:
    """The held-out images of a run's config.

    Raises:
      DataError: they cannot be read.
    """
    return open_part(config.data, "val")


def evaluate(
    reconstructors: Sequence[Reconstructor],
    data: Data,
    *,
    resolutions: Sequence[int],
    steps: Sequence[int],
    protocol: Protocol,
    output: str,
    mesh: Mesh,
    save_images: bool = False,
) -> None:
    """Measures, and writes `output`; all processes call alike, process 0 writes.

    Args:
      reconstructors: to compare.
      data: images, of which the protocol may take some.
      resolutions: of the crops.
      steps: NFEs.
      protocol: how.
      output: folder; a stopped evaluation with the same arguments resumes from what it holds.
      mesh: of one process or all.
      save_images: writes originals and reconstructions too, as
        `images/RESOLUTION/RECONSTRUCTOR-nfeN/INDEX-NAME.png`; INDEX counts the measured images.

    Raises:
      ReconstructorError: a resolution that metrics or a reconstructor cannot take, or a picture
        that is missing.
      DataError: an image cannot be read.
      WeightsError, OSError: weights that are missing, or a file that cannot be read or written.
    """
    source = data.source
    if protocol.num_images:
        source = Subset(source, evenly_spaced(len(source), protocol.num_images))
    _check(reconstructors, resolutions, len(source))
    folder = pathlib.Path(output)
    parts = folder / "unfinished"
    parts.mkdir(parents=True, exist_ok=True)
    found = {
        "protocol": protocol.stamp(),
        "data": {"source": data.name, "num_images": len(source)} | data.metadata(),
        "versions": versions(),
        "reconstructors": [
            {"name": reconstructor.name} | reconstructor.metadata
            for reconstructor in reconstructors
        ],
        "rows": [],
        "paper": _paper_rows(reconstructors, resolutions, data.name),
    }
    saves = save_images and hosts.is_first()
    keep = functools.partial(_save, folder / "images") if saves else None
    metrics = ReconstructionMetrics(
        LPIPS_NETS, protocol.features, mesh, decoded_together=protocol.group_size
    )
    crop = CROPS[protocol.crop]
    report_images = ReportImages(
        reconstructors,
        source,
        resolutions=resolutions,
        steps=steps,
        crop=crop,
        decoding=protocol.decoding(),
        seed=protocol.seed,
        batch_size=metrics.batch_size,
    )
    total = len(source) * len(resolutions)
    hidden = None if hosts.is_first() else True  # None: shown on a terminal
    with tqdm(total=total, unit="image", dynamic_ncols=True, disable=hidden) as bar:
        for resolution in resolutions:
            file = parts / f"{_fingerprint(found, resolution, steps, save_images=save_images)}.npz"
            measured = measure(
                reconstructors,
                source,
                resolution=resolution,
                steps=steps,
                protocol=protocol,
                metrics=metrics,
                file=file,
                advance=bar.update,
                keep=keep,
            )
            report_images.add(resolution, measured.accumulators if measured else {})
            if measured:
                found["rows"] += results.rows(resolution, measured.accumulators)
                table = folder / f"per_image_{resolution}.csv"
                results.write_per_image(table, measured.names, measured.accumulators)
    if hosts.is_first():
        _write(folder, found, report_images.pictures)
        shutil.rmtree(parts)
    # At the end of the program JAX waits for process 0 no longer than its timeout of shutting down.
    hosts.barrier("evaluation written")


def _check(
    reconstructors: Sequence[Reconstructor], resolutions: Sequence[int], num_images: int
) -> None:
    """Raises `ReconstructorError` for what would fail later."""
    for resolution in resolutions:
        if resolution < MIN_RESOLUTION:
            raise ReconstructorError(
                f"resolution {resolution}: LPIPS and SSIM need {MIN_RESOLUTION} px or more"
            )
        for reconstructor in reconstructors:
            reconstructor.check(resolution, num_images)


def _paper_rows(
    reconstructors: Sequence[Reconstructor], resolutions: Sequence[int], data: str
) -> list[dict]:
    return [
        row
        for reconstructor in reconstructors
        if isinstance(reconstructor, Run)
        for row in paper_rows(
            reconstructor.name, reconstructor.autoencoder.config, resolutions=resolutions, data=data
        )
    ]


def _fingerprint(found: dict, resolution: int, steps: Sequence[int], *, save_images: bool) -> str:
    """Hashes all that a pass at a resolution depends on, which devices and processes are not."""
    what = {name: found[name] for name in ("protocol", "data", "reconstructors")}
    code = {k: v for k, v in found["versions"].items() if k not in ("devices", "processes")}
    text = json.dumps([what, code, resolution, list(steps), save_images], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _write(folder: pathlib.Path, found: dict, pictures: Gallery) -> None:
    results.write_json(folder / "results.json", found)
    (folder / "results.md").write_bytes(encode(results.markdown(found)))
    figures = plots.draw(found["rows"])
    (folder / "plots").mkdir(exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(folder / "plots" / f"{name}.png", dpi=150)
    write_report(folder / "report.html", found, figures=figures, pictures=pictures)
    print(results.text(found, shutil.get_terminal_size((100, 24)).columns), end="\n\n")


def _save(folder: pathlib.Path, batch: Batch, key: Key, pictures: np.ndarray) -> None:
    """Writes a batch's originals or reconstructions, which then can be compared as a folder."""
    name, nfe = key
    kind = "originals" if key == ORIGINALS else name if nfe is None else f"{name}-nfe{nfe}"
    folder = folder / str(pictures.shape[1]) / kind.replace("/", "_")
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(batch.count):
        file = folder / f"{picture_name(batch.indices[i], batch.names[i])}.png"
        Image.fromarray(pictures[i]).save(file)
