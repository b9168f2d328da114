"""Numbers and metadata of an evaluation as its report writes them."""

import math

from epsilon_vae.keys import is_larger_better
from epsilon_vae.metrics.labels import LABELS, heading, label
from epsilon_vae.names import printable

# Of the results table, before what was measured.
FIRST_COLUMNS = {
    "reconstructor": "Reconstructor",
    "resolution": "px",
    "nfe": "NFE",
    "num_images": "Images",
}
NOT_MEASURED = "–"


def _significant(value: float, digits: int) -> str:
    """Without exponent; what is below a millionth is what rounding leaves of 0."""
    if abs(value) < 1e-6:
        return "0"
    exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])  # of the rounded value
    return f"{value:.{max(0, digits - 1 - exponent)}f}"


def cell(column: str, value: float | None) -> dict:
    """A number of a table: 'text', and 'value' to sort by, as JSON can hold it."""
    if value is None or math.isnan(value):
        return {"text": NOT_MEASURED, "value": None}
    if math.isinf(value):
        return {
            "text": "∞" if value > 0 else "-∞",
            "value": "Infinity" if value > 0 else "-Infinity",
        }
    value = float(value)
    if column == "decode_seconds":
        text = _significant(1000 * value, 3)
    elif column == "psnr":
        text = f"{value:.2f}"
    elif column.startswith(("ssim", "lpips")):
        text = f"{value:.4f}"
    else:
        text = _significant(value, 4)
    return {"text": text, "value": value}


def plain(value) -> str:
    """A value of any kind as a reader wants it."""
    if value is None:
        return NOT_MEASURED
    return printable(", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value))


def all_metadata(results: dict) -> dict[str, dict[str, str]]:
    """Title → metadata: the protocol, the data, each reconstructor, the versions."""
    metadata = {"Protocol": results["protocol"], "Data": results["data"]}
    for reconstructor in results["reconstructors"]:
        metadata[f"Reconstructor {reconstructor['name']}"] = {
            k: v for k, v in reconstructor.items() if k != "name"
        }
    metadata["Versions"] = results["versions"]
    return {title: {k: plain(v) for k, v in values.items()} for title, values in metadata.items()}


def results_table(rows: list[dict], paper: list[dict]) -> dict:
    """'columns', 'rows' of cells, and the 'notes' that cells refer to by number, from 1.

    The paper's rows follow those of the same reconstructor and resolution.
    """
    both = [*rows, *paper]
    columns = dict.fromkeys(
        name
        for row in both
        for name, value in row.items()
        if isinstance(value, (int, float)) and name not in FIRST_COLUMNS
    )
    order = [*(name for name in LABELS if name != "decode_seconds"), *columns]
    columns = sorted(columns, key=lambda name: (name == "decode_seconds", order.index(name)))
    notes = list(dict.fromkeys(note for row in rows for note in row["notes"]))
    groups = dict.fromkeys((row["reconstructor"], row["resolution"]) for row in both)
    grouped = [
        row for at in groups for row in both if (row["reconstructor"], row["resolution"]) == at
    ]
    found = [_results_row(row, columns, notes) for row in grouped]
    _mark_best(found, columns)
    return {
        "columns": [*FIRST_COLUMNS.values(), *map(heading, columns)],
        "rows": found,
        "notes": [in_words(note) for note in notes],
    }


def in_words(note: str) -> str:
    """A note with the label of the metric that it begins with, if it does."""
    name, space, rest = note.partition(" ")
    return f"{label(name)}{space}{rest}"


def _mark_best(rows: list[dict], columns: list[str]) -> None:
    """Marks the best of a resolution where they differ; the paper's are of other images."""
    for place, name in enumerate(columns, len(FIRST_COLUMNS)):
        resolutions: dict[str, list[dict]] = {}
        for cells in (row["cells"] for row in rows if not row["is_paper"]):
            if cells[place]["value"] is not None:
                resolutions.setdefault(cells[1]["text"], []).append(cells[place])
        for cells in resolutions.values():
            choose = max if is_larger_better(name) else min
            best = choose(cells, key=lambda shown: float(shown["value"]))
            if any(shown["text"] != best["text"] for shown in cells):
                for shown in cells:
                    shown["best"] = shown["text"] == best["text"]


def _results_row(row: dict, columns: list[str], notes: list[str]) -> dict:
    """'is_paper', and 'cells' with the numbers of their 'notes', none of them 'best' yet.

    A note that begins with a column's name belongs to its cell, any other to the row's first.
    """
    is_paper = "name" in row
    cells = {"reconstructor": {"text": row["name" if is_paper else "reconstructor"], "value": None}}
    for name in ("resolution", "nfe", "num_images"):
        cells[name] = {"text": plain(row.get(name)), "value": row.get(name)}
    cells |= {name: cell(name, row.get(name)) for name in columns}
    if is_paper:  # with the digits that the paper gives
        for name in columns:
            cells[name]["text"] = plain(row.get(name))
    elif row.get("decode_seconds_quartiles"):
        first, third = (cell("decode_seconds", x)["text"] for x in row["decode_seconds_quartiles"])
        cells["decode_seconds"]["text"] += f" ({first}–{third})"
    for shown in cells.values():
        shown |= {"notes": [], "best": False}
    for note in row.get("notes", []):
        word = note.split(maxsplit=1)[0]
        cells[word if word in columns else "reconstructor"]["notes"].append(notes.index(note) + 1)
    return {"is_paper": is_paper, "cells": list(cells.values())}
