"""Accumulated metrics to numbers beside their protocol: rows, results.json, a Markdown table."""

import csv
import json
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np

from epsilon_vae.evaluation.measuring import ORIGINALS, Key, MetricAccumulator
from epsilon_vae.evaluation.protocols import distance_name, noiseless
from epsilon_vae.evaluation.tables import results_table
from epsilon_vae.metrics.frechet import frechet_distance
from epsilon_vae.names import csv_cell, encode
from epsilon_vae.names import markdown as escape


def rows(resolution: int, accumulators: dict[Key, MetricAccumulator]) -> list[dict]:
    """Each reconstructor's numbers at each NFE: means over images, distances, time.

    `notes` says what is to be known of them, as that images are too few.
    """
    originals = accumulators[ORIGINALS]
    return [_row(k, resolution, t, originals) for k, t in accumulators.items() if k != ORIGINALS]


def _row(
    key: Key, resolution: int, accumulator: MetricAccumulator, originals: MetricAccumulator
) -> dict:
    reconstructor, nfe = key
    num_images = sum(map(len, next(iter(accumulator.values.values()))))
    found = {
        "reconstructor": reconstructor,
        "resolution": resolution,
        "nfe": nfe,
        "num_images": num_images,
    }
    notes = []
    references = originals.statistics()
    for features, statistics in accumulator.statistics().items():
        name = distance_name(features)
        if features == noiseless(features):  # of noisy ones the same would be said again
            notes += notes_on_distance(name, statistics.mean.size, num_images)
        if num_images < 2:
            found[name] = None
            continue
        found[name] = frechet_distance(
            references[noiseless(features)].gaussian(), statistics.gaussian()
        )
    found |= accumulator.means()
    found["decode_seconds"] = float(np.median(accumulator.seconds)) if accumulator.seconds else None
    return found | {"notes": notes}


def notes_on_distance(name: str, dim: int, num_images: int) -> list[str]:
    """Notes on a Fréchet distance over `dim` features, perhaps none."""
    if num_images < 2:
        return [f"{name} needs two images"]
    if num_images > dim:
        return []
    return [
        f"{name} is over {dim} features of {num_images} images, which are too few: it is biased "
        "upwards, and compares only with others of the same images"
    ]


def write_per_image(
    path: pathlib.Path, names: Sequence[str], accumulators: dict[Key, MetricAccumulator]
) -> None:
    """A CSV file with a line for each image, reconstructor and NFE: all metrics of it.

    The index is the image's place among those that were measured, in the order of the data.
    """
    keys = [key for key in accumulators if key != ORIGINALS]
    metrics = list(accumulators[keys[0]].values)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["index", "name", "reconstructor", "nfe", *metrics])
        for key in keys:
            columns = [accumulators[key].per_image(metric) for metric in metrics]
            for index, values in enumerate(zip(*columns, strict=True)):
                numbers = (f"{value:.6g}" for value in values)
                name, reconstructor = csv_cell(names[index]), csv_cell(key[0])
                writer.writerow([index, name, reconstructor, key[1] or "", *numbers])


def write_json(path: pathlib.Path, results: dict) -> None:
    """results.json: protocol, data, versions, reconstructors, rows and the paper's.

    JSON has no infinite number: the PSNR of pictures equal to their originals is "Infinity".
    """
    strict = json.loads(json.dumps(results), parse_constant=str)
    path.write_bytes(encode(json.dumps(strict, indent=2, ensure_ascii=False) + "\n"))


def markdown(results: dict) -> str:
    """The table, with the protocol above and the notes below."""
    protocol, data = results["protocol"], results["data"]
    table = results_table(results["rows"], results["paper"])
    lines = [
        f"Protocol `{protocol['name']}`: {data['num_images']} images of "
        f"{escape(data['source'])}, crop {protocol['crop']}, {protocol['weights']} weights, "
        f"seed {protocol['seed']}, features "
        f"{', '.join(protocol['features'])}. The rest is in results.json.",
        "",
        table_line(table["columns"]),
        "|---" * len(table["columns"]) + "|",
    ]
    for row in table["rows"]:
        texts = [
            escape(cell["text"]) + "".join(f" [{n}]" for n in cell["notes"])
            for cell in row["cells"]
        ]
        lines.append(table_line(f"*{text}*" if row["is_paper"] else text for text in texts))
    notes = [f"- [{number}] {note}" for number, note in enumerate(table["notes"], 1)]
    return "\n".join([*lines, "", *notes]).rstrip() + "\n"


def table_line(cells: Iterable[str]) -> str:
    """A line of a Markdown table, of cells of Markdown."""
    return f"| {' | '.join(cells)} |"
