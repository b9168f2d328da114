"""One HTML file that shows generated images beside their reference, and how far they are from it.

It needs nothing beside itself, neither files nor network.
"""

import dataclasses
import pathlib

import numpy as np

from epsilon_vae.data.sources import evenly_spaced
from epsilon_vae.evaluation.page import BYTES_PER_PIXEL, data_uri, render
from epsilon_vae.evaluation.tables import cell, in_words, plain
from epsilon_vae.metrics.labels import heading
from epsilon_vae.names import encode

# Of each set; fewer where its pictures would take more.
SHOWN_IMAGES, BUDGET_BYTES = 64, 12.5e6
# That images are shown at first, scaled by a power of two; larger ones at the reader's wish.
MIN_TILE_PIXELS, MAX_TILE_PIXELS = 64, 128
# Numbers by the first word of their name; all others are distances, with entries of their own.
SCORES = {
    "inception": "inception_score",
    "precision": "precision_recall",
    "recall": "precision_recall",
}


@dataclasses.dataclass(frozen=True)
class Shown:
    """The part of a set that the page shows.

    Attributes:
      title: as 'Samples'.
      num_images: of the set.
      pictures: index in the set → uint8 `[H, W, 3]`, all of one size; perhaps none.
    """

    title: str
    num_images: int
    pictures: dict[int, np.ndarray]


def shown_of(batch: np.ndarray, start: int, num_images: int) -> dict[int, np.ndarray]:
    """Images of a batch that the page shows, evenly spaced over the set, by their index in it.

    Args:
      batch: uint8 `[B, H, W, 3]`.
      start: index of its first image.
      num_images: of the set.
    """
    fit = int(BUDGET_BYTES / (BYTES_PER_PIXEL * batch[0, ..., 0].size))
    indices = evenly_spaced(num_images, max(1, min(SHOWN_IMAGES, fit)))
    inside = indices[(start <= indices) & (indices < start + len(batch))]
    return {index: batch[index - start].copy() for index in inside.tolist()}


def write_samples_report(path: pathlib.Path, results: dict, sets: list[Shown]) -> None:
    """Writes the page; the same for the same arguments.

    Args:
      path: of the HTML file.
      results: as in results.json: 'protocol', 'reference', 'versions', one row in 'rows'.
      sets: side by side.
    """
    protocol, [row] = results["protocol"], results["rows"]
    metadata = {"Protocol": protocol, "Versions": results["versions"]}
    metadata = {
        title: {k: plain(v) for k, v in values.items()} for title, values in metadata.items()
    }
    page = render(
        "generated_report.html.j2",
        row=row,
        notes=[in_words(note) for note in row["notes"]],
        reference=results["reference"],
        protocol=metadata["Protocol"],
        stamp=("name", "features"),
        metadata=metadata,
        numbers=[
            _number(k, v, protocol, row["notes"]) for k, v in row.items() if isinstance(v, float)
        ],
        sets=[_grid(shown) for shown in sets],
    )
    path.write_bytes(encode(page))


def _number(name: str, value: float, protocol: dict, notes: list[str]) -> dict:
    """'label', 'text', 'how' it was measured, numbers of its 'notes'."""
    return {
        "label": heading(name),
        "text": cell(name, value)["text"],
        "how": protocol[SCORES.get(name.partition("_")[0], name)],
        "notes": [number for number, note in enumerate(notes, 1) if note.split()[0] == name],
    }


def _grid(shown: Shown) -> dict:
    """'title', 'caption', 'size' (width and height), 'tile' (CSS pixels), index → 'pictures'."""
    if not shown.pictures:
        return {"title": shown.title, "caption": "no images, only mu and sigma", "pictures": {}}
    height, width, _ = next(iter(shown.pictures.values())).shape
    tile = width
    while tile < MIN_TILE_PIXELS:
        tile *= 2
    while tile > MAX_TILE_PIXELS:
        tile /= 2
    count, all_ = len(shown.pictures), shown.num_images
    which = f"all {count}" if count == all_ else f"{count} of {all_}, evenly spaced"
    if count < min(SHOWN_IMAGES, all_):
        which += f" (more would take over {BUDGET_BYTES / 1e6:g} MB)"
    return {
        "title": shown.title,
        "caption": f"{which}, {width} × {height} px",
        "size": (width, height),
        "tile": f"{tile:g}",
        "pictures": {index: data_uri(picture) for index, picture in shown.pictures.items()},
    }
