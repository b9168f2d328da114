"""Plots of an evaluation: distances over NFE, PSNR over LPIPS and over the time of decoding.

Drawn on `matplotlib.figure.Figure` itself, so that nothing depends on a display or a global state.
"""

import io
import math
import re
from collections.abc import Iterator

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

# Columns of results, as tables and axes name them.
LABELS = {
    "rfid": "rFID",
    "fid": "FID",
    "fd_alexnet": "FD AlexNet",
    "fd_vgg16": "FD VGG16",
    "fd_efficientnet_lite0": "FD EfficientNet-Lite0",
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "ssim_range2": "SSIM (range 2)",
    "lpips_vgg16": "LPIPS VGG16",
    "lpips_alexnet": "LPIPS AlexNet",
    "decode_seconds": "ms an image",
}
DISTANCES = ("rfid", "fd_alexnet", "fd_vgg16", "fd_efficientnet_lite0")

# Of text and axes; in an SVG it becomes the colour of the text around.
INK = "#1d2126"
# Seen on white and on black; as many markers as have no divisor in common with the colours.
COLORS = ("#3b7dd8", "#e0653a", "#2a9d6f", "#b565c9", "#c99a1d", "#d6487e", "#3aa6b9")
MARKERS = "os^Dv"

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
    """Figures by name, without those that would be empty.

    - `frechet_over_nfe`: every Fréchet distance that rows have. A reconstructor without NFE is
      a dashed line; where no reconstructor has one, there is no such figure.
    - `psnr_over_lpips`: a point is a row, joined over NFE, with its NFE beside it.
    - `quality_over_decode_time`: PSNR over the time that decoding an image takes.

    A line is of a reconstructor at a resolution, and has the same colour and marker in all figures.

    Args:
      rows: of results: 'reconstructor', 'resolution', 'nfe' (or None), and any of the columns of
        `LABELS`, where None is a value that was not measured.
    """
    with matplotlib.rc_context(STYLE):
        figures = {
            "frechet_over_nfe": _frechet_over_nfe(rows),
            "psnr_over_lpips": _psnr_over_lpips(rows),
            "quality_over_decode_time": _quality_over_decode_time(rows),
        }
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


def _frechet_over_nfe(rows: list[dict]) -> Figure:
    all_nfe = sorted({row["nfe"] for row in rows if row["nfe"] is not None})
    present = [name for name in DISTANCES if any(True for _ in _series(rows, name))]
    columns = min(2, len(present))
    lines = math.ceil(len(present) / 2)
    figure = Figure(figsize=(6.8 if columns == 2 else 5.2, 0.8 + 2.7 * lines), layout="constrained")
    for i, name in enumerate(present if all_nfe else []):
        axes = figure.add_subplot(lines, columns, i + 1)
        for own, style in _series(rows, name):
            points = [(row["nfe"], row[name]) for row in own if row["nfe"] is not None]
            if points:
                axes.plot(*zip(*points, strict=True), **style)
            for row in (row for row in own if row["nfe"] is None):
                axes.axhline(row[name], linestyle="--", **style | {"marker": ""})
        axes.set(xlabel="NFE", title=LABELS[name])
        _make_logarithmic(axes)
        axes.set_xticks(all_nfe)
    _add_legend(figure)
    return figure


def _psnr_over_lpips(rows: list[dict]) -> Figure:
    figure = Figure(figsize=(5.2, 4), layout="constrained")
    for own, style in _series(rows, "psnr", "lpips_vgg16"):
        axes = figure.axes[0] if figure.axes else figure.add_subplot()
        axes.plot([row["lpips_vgg16"] for row in own], [row["psnr"] for row in own], **style)
        for row in (row for row in own if row["nfe"] is not None):
            at = row["lpips_vgg16"], row["psnr"]
            beside = {"xytext": (5, 4), "textcoords": "offset points", "fontsize": 8}
            axes.annotate(f"{row['nfe']}", at, color=style["color"], **beside)
        axes.set(xlabel=LABELS["lpips_vgg16"], ylabel=LABELS["psnr"])
        axes.set_title("PSNR over LPIPS, at each NFE")
    _add_legend(figure)
    return figure


def _quality_over_decode_time(rows: list[dict]) -> Figure:
    figure = Figure(figsize=(5.2, 4), layout="constrained")
    for own, style in _series(rows, "psnr", "decode_seconds"):
        axes = figure.axes[0] if figure.axes else figure.add_subplot()
        milliseconds = [1000 * row["decode_seconds"] for row in own]
        axes.plot(milliseconds, [row["psnr"] for row in own], **style)
        axes.set(xlabel="decoding, ms an image", ylabel=LABELS["psnr"])
        axes.set_title("PSNR over decoding time")
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
    lines = {line.get_label(): line for axes in figure.axes for line in axes.get_lines()}
    if lines:
        entry_inches = 0.5 + 0.08 * max(map(len, lines))
        columns = min(len(lines), max(1, int(figure.get_figwidth() / entry_inches)))
        figure.legend(handles=list(lines.values()), loc="outside lower center", ncols=columns)
