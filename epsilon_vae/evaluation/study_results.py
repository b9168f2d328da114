"""A study's results: each variant over its seeds, beside the paper's number."""

import pathlib

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from epsilon_vae.evaluation.plots import COLORS, STYLE
from epsilon_vae.evaluation.results import table_line
from epsilon_vae.evaluation.tables import NOT_MEASURED, cell
from epsilon_vae.metrics.labels import LABELS, heading
from epsilon_vae.names import markdown as escape

Group = tuple[str, int]  # variant, NFE


def write(folder: pathlib.Path, rows: list[dict], paper: dict[str, float | None]) -> None:
    """`study.md` and `study.png`.

    Args:
      folder: of the study.
      rows: of the evaluation's results; reconstructors are called VARIANT-seedN.
      paper: rFID of each variant, in the study's order; None where the paper has none.
    """
    groups = by_variant(rows, list(paper))
    (folder / "study.md").write_text(markdown(groups, paper), encoding="utf-8")
    draw(groups).savefig(folder / "study.png", dpi=150)


def by_variant(rows: list[dict], names: list[str]) -> dict[Group, list[dict]]:
    """Rows of all seeds by variant, in the order of `names`, and NFE."""
    groups: dict[Group, list[dict]] = {}
    for row in rows:
        variant = row["reconstructor"].rsplit("/", 1)[-1].rsplit("-seed", 1)[0]
        groups.setdefault((variant, row["nfe"]), []).append(row)
    return dict(sorted(groups.items(), key=lambda item: (names.index(item[0][0]), item[0][1])))


def measured(groups: dict[Group, list[dict]]) -> list[str]:
    """Columns that all rows have."""
    rows = [row for group in groups.values() for row in group]
    return [name for name in LABELS if all(row.get(name) is not None for row in rows)]


def markdown(groups: dict[Group, list[dict]], paper: dict[str, float | None]) -> str:
    """Means over seeds, and from two on the standard deviation of one seed's number."""
    columns = measured(groups)
    head = ["Variant", "NFE", "Seeds", *map(heading, columns), "rFID (paper)"]
    lines = [table_line(head), "|---" * len(head) + "|"]
    for (variant, nfe), rows in groups.items():
        cells = [escape(variant), str(nfe), str(len(rows))]
        for name in columns:
            values = np.array([row[name] for row in rows], np.float64)
            cells.append(_mean_and_deviation(name, values))
        found = paper[variant]
        lines.append(table_line([*cells, NOT_MEASURED if found is None else f"*{found:.2f}*"]))
    return "\n".join(lines) + "\n"


def _mean_and_deviation(column: str, values: np.ndarray) -> str:
    """The deviation has as many decimals as the mean; there is none of one value."""
    text = cell(column, values.mean())["text"]
    if len(values) < 2 or not np.isfinite(values).all():
        return text
    scale = 1000 if column == "decode_seconds" else 1  # which is told in ms
    return f"{text} ± {scale * values.std(ddof=1):.{len(text.partition('.')[2])}f}"


def draw(groups: dict[Group, list[dict]]) -> Figure:
    """A panel a metric: a point a seed, a line through the means."""
    columns = [name for name in measured(groups) if name not in ("decode_seconds", "ssim_range2")]
    labels = [f"{variant}\n@{nfe}" for variant, nfe in groups]
    places = np.arange(len(groups))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(5, 0.7 * len(groups)), 2.2 * len(columns)), layout="tight")
        for i, name in enumerate(columns):
            axes = figure.add_subplot(len(columns), 1, i + 1)
            values = [[row[name] for row in rows] for rows in groups.values()]
            color = COLORS[i % len(COLORS)]
            axes.plot(places, [np.mean(seeds) for seeds in values], color=color)
            for place, seeds in zip(places, values, strict=True):
                axes.plot([place] * len(seeds), seeds, "o", color=color)
            axes.set_ylabel(heading(name))
            axes.set_xticks(places, labels)
    return figure
