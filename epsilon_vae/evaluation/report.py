"""One HTML file that shows an evaluation: tables, plots, and pictures to compare by eye.

It needs nothing beside itself, neither files nor network.
"""

import dataclasses
import hashlib
import pathlib

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from epsilon_vae.evaluation.measuring import Key, main_nfe
from epsilon_vae.evaluation.page import data_uri, render
from epsilon_vae.evaluation.plots import svg
from epsilon_vae.evaluation.tables import all_metadata, cell, plain, results_table
from epsilon_vae.keys import is_larger_better
from epsilon_vae.metrics.labels import heading, label
from epsilon_vae.names import encode

# What of the protocol is said without asking; the rest unfolds.
STAMP = ("name", "crop", "features", "weights", "spacing", "seed", "group_size")
HEAT_COLORS = "magma"
# Of the deviations over seeds; few outliers would darken all maps.
HEAT_QUANTILE = 0.999


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportImage:
    """An image beside what was made of it.

    Attributes:
      index: of the image among those that were measured.
      name: of the image.
      resolution: that it was cropped to.
      original: uint8 `[H, W, 3]`.
      reconstructions: uint8 `[H, W, 3]` each; perhaps not of all keys.
      metrics: e.g. {'psnr': 24.1, 'lpips_vgg16': 0.1}.
    """

    index: int
    name: str
    resolution: int
    original: np.ndarray
    reconstructions: dict[Key, np.ndarray]
    metrics: dict[Key, dict[str, float]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeedVariation:
    """How much the reconstruction of an image depends on the noise that decoding starts from.

    Attributes:
      index, resolution: of the image.
      reconstructor, nfe: what decoded it.
      num_seeds: number of reconstructions.
      deviation: float `[H, W]`: standard deviation over seeds, its mean over channels, in grey
        levels (of 0…255).
    """

    index: int
    resolution: int
    reconstructor: str
    nfe: int
    num_seeds: int
    deviation: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trajectory:
    """The decoding of one image, from noise at t = 1 to the image at t = 0.

    Attributes:
      index, resolution: of the image.
      reconstructor: what decoded it.
      times: `[n + 1]`, falling from 1 to 0.
      states: uint8 `[n + 1, H, W, 3]`, x_t at each time.
      estimates: uint8 `[n, H, W, 3]`: x_0 as the network estimates it at each time but the last.
    """

    index: int
    resolution: int
    reconstructor: str
    times: np.ndarray
    states: np.ndarray
    estimates: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gallery:
    """All pictures of a report.

    Attributes:
      images: a selection of the data set; holds all that `worst` names, of its keys.
      worst: (resolution, metric, key) → indices of the worst images, worst first.
      seeds: shown beside the original where `images` has it.
      trajectories: likewise.
      shown: how many images of each resolution are shown, in words.
    """

    images: list[ReportImage]
    worst: dict[tuple[int, str, Key], list[int]]
    seeds: list[SeedVariation]
    trajectories: list[Trajectory]
    shown: list[str] = dataclasses.field(default_factory=list)


def write_report(
    path: pathlib.Path, results: dict, *, figures: dict[str, Figure], pictures: Gallery
) -> None:
    """Writes the page; the same for the same arguments. Parts without content are left out.

    Args:
      path: of the HTML file.
      results: as in results.json: 'protocol', 'data', 'versions', 'reconstructors', 'rows' and
        'paper'.
      figures: of `plots.draw`.
      pictures: embedded without loss, each once.

    Raises:
      KeyError: `pictures.worst` names an image that `pictures.images` has not.
    """
    store = _Store()
    images = sorted(pictures.images, key=lambda image: (image.resolution, image.index))
    known = {(image.resolution, image.index): image for image in images}
    data = {
        **_viewer(images, pictures.worst, store),
        "trajectories": [
            _trajectory(trajectory, known, store) for trajectory in pictures.trajectories
        ],
    }
    page = render(
        "report.html.j2",
        reconstructors=[reconstructor["name"] for reconstructor in results["reconstructors"]],
        source=results["data"],
        protocol={name: plain(value) for name, value in results["protocol"].items()},
        stamp=STAMP,
        metadata=all_metadata(results),
        table=results_table(results["rows"], results["paper"]),
        figures={name: Markup(svg(figure)) for name, figure in figures.items()},
        shown=pictures.shown,
        data=data,
        heat=_heat(pictures.seeds, known, store),
        pictures=store.uris,
    )
    path.write_bytes(encode(page))


class _Store:
    """Pictures as data URIs; the id of one is its place in `uris`."""

    def __init__(self):
        self.uris: list[str] = []
        self._ids: dict[tuple, int] = {}

    def add(self, picture: np.ndarray) -> int:
        """Id of a picture, uint8 `[H, W, 3]`; one that is there already gets no second place."""
        picture = np.ascontiguousarray(picture)
        key = picture.shape, hashlib.sha256(picture).digest()
        if key not in self._ids:
            self._ids[key] = len(self.uris)
            self.uris.append(data_uri(picture))
        return self._ids[key]


def _key_label(reconstructor: str, nfe: int | None) -> str:
    return reconstructor if nfe is None else f"{reconstructor}, NFE {nfe}"


def _viewer(
    images: list[ReportImage], worst: dict[tuple[int, str, Key], list[int]], store: _Store
) -> dict:
    """'keys', 'metrics', 'images', 'worst', and what the viewer 'opens' with, left and right.

    The latter three refer to the others by position.
    """
    keys = list(dict.fromkeys(key for image in images for key in image.reconstructions))
    metrics = list(
        dict.fromkeys(
            name for image in images for values in image.metrics.values() for name in values
        )
    )
    position = {(image.resolution, image.index): i for i, image in enumerate(images)}

    def result(image: ReportImage, key: Key) -> dict | None:
        if key not in image.reconstructions:
            return None
        values = image.metrics[key]
        return {
            "picture": store.add(image.reconstructions[key]),
            "metrics": [cell(name, values.get(name)) for name in metrics],
        }

    return {
        "keys": [_key_label(*key) for key in keys],
        "opens": _opening(keys),
        "metrics": [
            {"label": label(x), "heading": heading(x), "isLargerBetter": is_larger_better(x)}
            for x in metrics
        ],
        "images": [
            {
                "index": image.index,
                "name": image.name,
                "resolution": image.resolution,
                "size": _size(image.original),
                "original": store.add(image.original),
                "results": [result(image, key) for key in keys],
            }
            for image in images
        ],
        "worst": [
            {
                "resolution": resolution,
                "metric": metrics.index(metric),
                "key": keys.index(key),
                "images": [position[resolution, index] for index in indices],
            }
            for (resolution, metric, key), indices in worst.items()
        ],
    }


def _opening(keys: list[Key]) -> list[int]:
    """Positions of two reconstructors' keys, each at its main NFE, or of the only one's."""
    nfes: dict[str, list[int | None]] = {}
    for name, nfe in keys:
        nfes.setdefault(name, []).append(nfe)
    return [keys.index((name, main_nfe(own))) for name, own in [*nfes.items()][:2]]


def _size(picture: np.ndarray) -> list[int]:
    """Width and height."""
    return [picture.shape[1], picture.shape[0]]


def _known_image(
    of: Trajectory | SeedVariation, known: dict[tuple[int, int], ReportImage], store: _Store
) -> tuple[str, int | None]:
    """Name of its image, and the original's id or None."""
    image = known.get((of.resolution, of.index))
    return (image.name, store.add(image.original)) if image else (f"image {of.index}", None)


def _trajectory(
    trajectory: Trajectory, known: dict[tuple[int, int], ReportImage], store: _Store
) -> dict:
    name, original = _known_image(trajectory, known, store)
    steps = len(trajectory.estimates)
    return {
        "title": f"{name}, {trajectory.resolution} px, {trajectory.reconstructor}, {steps} steps",
        "original": original,
        "size": _size(trajectory.states[0]),
        "times": [f"{time:.3g}" for time in trajectory.times],
        "states": [store.add(state) for state in trajectory.states],
        "estimates": [store.add(estimate) for estimate in trajectory.estimates],
    }


def _heat(
    seeds: list[SeedVariation], known: dict[tuple[int, int], ReportImage], store: _Store
) -> dict:
    """'maps', with one scale for all: its 'ramp' and the 'ticks' along it, in grey levels."""
    if not seeds:
        return {"maps": []}
    colors = matplotlib.colormaps[HEAT_COLORS]
    values = np.concatenate([variation.deviation.ravel() for variation in seeds])
    top = max(1.0, float(np.quantile(values, HEAT_QUANTILE)))

    def heat_map(variation: SeedVariation) -> dict:
        name, original = _known_image(variation, known, store)
        return {
            "title": f"{name}, {variation.resolution} px",
            "reconstructor": _key_label(variation.reconstructor, variation.nfe),
            "caption": f"{variation.num_seeds} seeds, mean {np.mean(variation.deviation):.2f}",
            "size": _size(variation.deviation),
            "original": original,
            "map": store.add(colors(variation.deviation / top, bytes=True)[..., :3]),
        }

    return {
        "maps": [heat_map(variation) for variation in seeds],
        "ramp": store.add(colors(np.linspace(0, 1, 256)[None], bytes=True)[..., :3]),
        "ticks": [f"{value:.1f}" for value in np.linspace(0, top, 5)],
    }
