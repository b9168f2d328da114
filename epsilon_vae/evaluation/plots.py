"""Plots of an evaluation: distances over NFE, PSNR over LPIPS and over the time of decoding.

Drawn on `matplotlib.figure.Figure` itself, so that nothing depends on a display or a global state.
"""

import io
import re
from collections.abc import Iterator

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from epsilon_vae.metrics.labels import heading, label

DISTANCES = ("rfid", "fd_alexnet", "fd_vgg16", "fd_efficientnet_lite0")

# In inches: one or three of them stand side by side on a page, and one fits on a phone.
SIZE = (4.2, 3.4)
# Of text and axes; in an SVG it becomes the colour of the text around.
INK = "#1d2126"
# Seen on white and on black; as many markers as have no divisor in common with the colours.
COLORS = ("#3b7dd8", "#e0653a", "#2a9d6f", "#b565c9", "#c99a1d", "#d6487e", "#3aa6b9")
MARKERS = "os^Dv"

# Beside a line's style: of the spread of one of its points. The legend does not name it.
BAR = {"marker": "|", "label": "_quartiles", "linewidth": 1, "markersize": 7}

# `parse_math` off: a reconstructor may be named `a$b$`.
STYLE = {
    "axes.edgecolor": INK,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.family": "sans-serif",
    "font.size": 9,
    "grid.alpha": 0.15,
    "grid.color": INK,
    "legend.frameon": False,
    "lines.markersize": 5,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
}


def draw(rows: list[dict]) -> dict[str, Figure]:
    """Figures by name, without those that would show a single point.

    - `rfid_over_nfe`, `fd_alexnet_over_nfe`, …: a Fréchet distance, where there are two NFEs. A
      reconstructor without NFE is a dashed line.
    - `psnr_over_lpips`: a point is a row, joined over NFE, with its NFE beside it.
    - `quality_over_decode_time`: PSNR over the time that decoding an image takes; a bar is its
      quartiles.

    A line is of a reconstructor at a resolution, and has the same colour and marker in all figures.

    Args:
      rows: of results: 'reconstructor', 'resolution', 'nfe' (or None), and any of the columns of
        `labels.LABELS`, where None is a value that was not measured.
    """
    with matplotlib.rc_context(STYLE):
        figures = {f"{name}_over_nfe": _over_nfe(rows, name) for name in DISTANCES}
        figures["psnr_over_lpips"] = _psnr_over_lpips(rows)
        figures["quality_over_decode_time"] = _quality_over_decode_time(rows)
    for name, figure in figures.items():
        figure.set_label(name)
    return {name: figure for name, figure in figures.items() if figure.axes}


def svg(figure: Figure) -> str:
    """An `<svg>` element to stand in an HTML page: the same for the same figure.

    Ids begin with the figure's label, so that those of several figures differ. Text stays text, in
    the colour of the text around.
    """
    text = io.StringIO()
    name = figure.get_label()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(text, format="svg", transparent=True, metadata=no_metadata)
    element = text.getvalue()
    element = element[element.index("<svg") :]

    def adapt(tag: re.Match) -> str:
        renamed = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", tag[0])
        return renamed.replace(INK, "currentColor")

    return re.sub(r"<[^>]+>", adapt, element)


def _series(rows: list[dict], *columns: str) -> Iterator[tuple[list[dict], dict]]:
    """A reconstructor's rows at a resolution with all columns, by NFE, and its line's style."""
    keys = dict.fromkeys((row["reconstructor"], row["resolution"]) for row in rows)
    for i, (reconstructor, resolution) in enumerate(keys):
        own = [
            row
            for row in rows
            if (row["reconstructor"], row["resolution"]) == (reconstructor, resolution)
        ]
        own = [row for row in own if all(row.get(column) is not None for column in columns)]
        # The label does not begin with the name: legends leave out what begins with '_'.
        style = {
            "color": COLORS[i % len(COLORS)],
            "marker": MARKERS[i % len(MARKERS)],
            "label": f"{resolution} px, {reconstructor}",
        }
        if own:
            yield sorted(own, key=lambda row: row["nfe"] or 0), style


def _over_nfe(rows: list[dict], name: str) -> Figure:
    figure = Figure(figsize=SIZE, layout="constrained")
    series = list(_series(rows, name))
    all_nfe = sorted({row["nfe"] for own, _ in series for row in own} - {None})
    if len(all_nfe) < 2:
        return figure
    axes = figure.add_subplot()
    for own, style in series:
        points = [(row["nfe"], row[name]) for row in own if row["nfe"] is not None]
        if points:
            axes.plot(*zip(*points, strict=True), **style)
        for row in (row for row in own if row["nfe"] is None):
            axes.axhline(row[name], linestyle="--", **style | {"marker": ""})
    axes.set(xlabel="NFE", ylabel=heading(name), title=f"{label(name)} over NFE")
    _make_logarithmic(axes)
    axes.set_xticks(all_nfe)
    _add_legend(figure)
    return figure


def _psnr_over_lpips(rows: list[dict]) -> Figure:
    figure = Figure(figsize=SIZE, layout="constrained")
    series = list(_series(rows, "psnr", "lpips_vgg16"))
    if sum(len(own) for own, _ in series) < 2:
        return figure
    axes = figure.add_subplot()
    for own, style in series:
        axes.plot([row["lpips_vgg16"] for row in own], [row["psnr"] for row in own], **style)
        for row in (row for row in own if row["nfe"] is not None):
            at = row["lpips_vgg16"], row["psnr"]
            beside = {"xytext": (5, 4), "textcoords": "offset points", "fontsize": 8}
            axes.annotate(f"{row['nfe']}", at, color=style["color"], **beside)
    axes.set(xlabel=heading("lpips_vgg16"), ylabel=heading("psnr"))
    axes.set_title("PSNR over LPIPS, at each NFE")
    axes.margins(0.1)
    _add_legend(figure)
    return figure


def _quality_over_decode_time(rows: list[dict]) -> Figure:
    figure = Figure(figsize=SIZE, layout="constrained")
    series = list(_series(rows, "psnr", "decode_seconds"))
    if sum(len(own) for own, _ in series) < 2:
        return figure
    axes = figure.add_subplot()
    for own, style in series:
        milliseconds = [1000 * row["decode_seconds"] for row in own]
        axes.plot(milliseconds, [row["psnr"] for row in own], **style)
        for row in own:
            if quartiles := row.get("decode_seconds_quartiles"):
                axes.plot([1000 * x for x in quartiles], [row["psnr"]] * 2, **style | BAR)
    axes.set(xlabel=heading("decode_seconds"), ylabel=heading("psnr"))
    axes.set_title("PSNR over time of decoding an image")
    _make_logarithmic(axes)
    _add_legend(figure)
    return figure


def _make_logarithmic(axes: Axes) -> None:
    """Ticks on x with plain numbers, since powers of ten would be written as mathematics."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")


def _add_legend(figure: Figure) -> None:
    lines = figure.axes[0].get_legend_handles_labels()[0]
    if lines:
        entry_inches = 0.5 + 0.08 * max(len(line.get_label()) for line in lines)
        columns = min(len(lines), max(1, int(figure.get_figwidth() / entry_inches)))
        figure.legend(handles=lines, loc="outside lower center", ncols=columns)
