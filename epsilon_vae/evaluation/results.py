"""Accumulated metrics to numbers beside their protocol: rows, results.json, and tables of text."""

import csv
import json
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np

from epsilon_vae.evaluation.measuring import ORIGINALS, Key, MetricAccumulator
from epsilon_vae.evaluation.protocols import distance_name, noiseless
from epsilon_vae.evaluation.tables import results_table
from epsilon_vae.metrics.frechet import frechet_distance
from epsilon_vae.names import csv_cell, encode, printable
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
    first, median, third = _quartiles(accumulator.seconds)
    found["decode_seconds"] = median
    found["decode_seconds_quartiles"] = [first, third] if len(accumulator.seconds) > 1 else None
    return found | {"notes": notes}


def _quartiles(seconds: list[float]) -> list[float | None]:
    """Of the time of an image over batches; None where nothing was timed."""
    return np.quantile(seconds, [0.25, 0.5, 0.75]).tolist() if seconds else [None] * 3


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
    """The table, with the protocol above and the notes below; the best of a resolution is bold."""
    table = results_table(results["rows"], results["paper"])
    lines = [
        f"{_protocol_line(results, code='`')}. The rest is in results.json.",
        "",
        table_line(table["columns"]),
        "|---" * len(table["columns"]) + "|",
    ]
    for row in table["rows"]:
        texts = []
        for cell in row["cells"]:
            mark = "*" if row["is_paper"] else "**" if cell["best"] else ""
            texts.append(f"{mark}{escape(cell['text'])}{mark}{_references(cell)}")
        lines.append(table_line(texts))
    notes = [f"- [{number}] {note}" for number, note in enumerate(table["notes"], 1)]
    return "\n".join([*lines, "", *notes]).rstrip() + "\n"


def text(results: dict, width: int) -> str:
    """The same for a terminal: for each resolution a table with a line for each metric.

    Args:
      results: as in results.json.
      width: in characters, that lines should fit.
    """
    table = results_table(results["rows"], results["paper"])
    lines = [_protocol_line(results)]
    _, _, nfe, images, *metrics = table["columns"]
    for resolution in dict.fromkeys(row["cells"][1]["text"] for row in table["rows"]):
        columns = [
            [name["text"], *(f"{cell['text']}{_references(cell)}" for cell in others)]
            for name, px, *others in (row["cells"] for row in table["rows"])
            if px["text"] == resolution
        ]
        lines += ["", *side_by_side([f"{resolution} px", nfe, images, *metrics], columns, width)]
    lines += ["", *(f"[{number}] {note}" for number, note in enumerate(table["notes"], 1))]
    return "\n".join(map(printable, lines)).rstrip()


def side_by_side(heads: list[str], columns: list[list[str]], width: int) -> list[str]:
    """Lines of columns beside their heads; where they are too wide, the rest follows below."""
    first, widths = max(map(len, heads)), [max(map(len, column)) for column in columns]
    count = 1
    while count < len(columns) and first + sum(2 + x for x in widths[: count + 1]) <= width:
        count += 1
    lines = [
        "  ".join([head.ljust(first), *(x.rjust(w) for x, w in zip(cells, widths, strict=False))])
        for head, *cells in zip(heads, *columns[:count], strict=True)
    ]
    rest = columns[count:]
    return [*lines, "", *side_by_side(heads, rest, width)] if rest else lines


def _protocol_line(results: dict, code: str = "") -> str:
    protocol, data = results["protocol"], results["data"]
    source = escape(data["source"]) if code else data["source"]
    return (
        f"Protocol {code}{protocol['name']}{code}: {data['num_images']} images of {source}, "
        f"crop {protocol['crop']}, {protocol['weights']} weights, seed {protocol['seed']}, "
        f"features {', '.join(protocol['features'])}, groups of {protocol['group_size']}"
    )


def _references(cell: dict) -> str:
    return "".join(f" [{note}]" for note in cell["notes"])


def table_line(cells: Iterable[str]) -> str:
    """A line of a Markdown table, of cells of Markdown."""
    return f"| {' | '.join(cells)} |"
