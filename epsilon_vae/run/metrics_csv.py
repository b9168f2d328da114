"""`metrics.csv`, a run's numbers by step: written by process 0, and read for its scores."""

import csv
import io
import os
import re

from absl import logging
from etils import epath

from epsilon_vae.keys import goodness
from epsilon_vae.output import is_in_bucket, write_whole

_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?([eE][-+]?\d+)?|inf|nan)", re.ASCII)


class MetricsCSV:
    """`metrics.csv`: a `step` column and one per metric; cells of metrics not measured are empty.

    Opened for a run that starts at `start_step`, it keeps the rows up to there and drops later
    ones, which the run will write again. What a kill or a power cut has left that is not a row is
    dropped with a warning, and a file without a header is set aside. Rows are appended; in a
    bucket, which cannot do that, each rewrites the file.

    Args:
      path: of the file.
      columns: metric names.
      start_step: updates that the run's state has seen.
    """

    def __init__(self, path: epath.Path, columns: list[str], start_step: int):
        before, rows = read_rows(path)
        kept = [row for row in rows if int(row["step"]) <= start_step]
        fields = dict.fromkeys(["step", *before, *columns])
        self._path, self._fields = path, list(fields)
        write_whole(path, self._lines([dict(zip(fields, fields, strict=True)), *kept]).encode())

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Adds a row, which is on the disk when this returns."""
        line = self._lines([{"step": step} | {k: f"{v:.6g}" for k, v in metrics.items()}])
        if is_in_bucket(self._path):
            write_whole(self._path, f"{self._path.read_text()}{line}".encode())
        else:
            with self._path.open("a") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())

    def _lines(self, rows: list[dict]) -> str:
        text = io.StringIO()
        csv.DictWriter(text, self._fields, lineterminator="\n").writerows(rows)
        return text.getvalue()


def read_rows(path: epath.Path) -> tuple[list[str], list[dict[str, str]]]:
    """Columns and rows of a metrics.csv; none where there is no file, or one without a header.

    The file may hold several headers, each of the rows that follow it.
    """
    if not path.exists():
        return [], []
    is_file = is_in_bucket(path) or path.is_file()
    text = path.read_bytes().decode("utf-8-sig", errors="replace") if is_file else ""
    *lines, rest = text.split("\n")
    header, columns, rows, others = [], {}, [], [rest] if rest else []
    for line in lines:
        cells = line.rstrip("\r").split(",")
        if cells[0] == "step" and len({*cells}) == len(cells) and all(map(str.isprintable, cells)):
            header = cells
            columns |= dict.fromkeys(header)
        elif header and _is_row(cells, header):
            rows.append(dict(zip(header, cells, strict=True)))
        else:
            others.append(line)
    if not header:
        logging.warning("%s: no table of metrics; set aside as %s", path, _set_aside(path))
    elif others:
        logging.warning(
            "%s: left out %d lines that are not rows: %.60r…", path, len(others), others[0]
        )
    return list(columns), rows


def read_scores(path: epath.Path) -> dict[str, list[tuple[int, float]]]:
    """The scores of a run's evaluations: metric → (step, score), in the order of the file."""
    scores: dict[str, list[tuple[int, float]]] = {}
    for row in read_rows(path)[1]:
        for name, cell in row.items():
            if name.startswith("eval/") and cell:
                measured = scores.setdefault(name.removeprefix("eval/"), [])
                measured.append((int(row["step"]), float(cell)))
    return scores


def best_score(metric: str, scores: list[tuple[int, float]]) -> tuple[int, float]:
    """The step of the best score, the first of several that are alike, and the score."""
    return max(scores, key=lambda score: goodness(metric, score[1]))


def _is_row(cells: list[str], header: list[str]) -> bool:
    """Whether these are a step and numbers, or nothing, for each column."""
    if len(cells) != len(header) or not re.fullmatch("[0-9]{1,18}", cells[0]):
        return False
    return all(not cell or _NUMBER.fullmatch(cell) for cell in cells)


def _set_aside(path: epath.Path) -> epath.Path:
    """Renames a file that cannot be used, and returns its new name."""
    number = 0
    while (aside := path.with_name(f"{path.stem}.damaged-{number}{path.suffix}")).exists():
        number += 1
    path.rename(aside)
    return aside
