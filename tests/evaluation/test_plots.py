"""Plots of an evaluation: which there are, what they show, and that an SVG stands alone."""

import re

import numpy as np
import pytest

from epsilon_vae.evaluation import plots


def make_row(reconstructor: str, resolution: int, nfe: int | None, **columns) -> dict:
    return {"reconstructor": reconstructor, "resolution": resolution, "nfe": nfe, **columns}


ROWS = [
    make_row(
        "tiny",
        resolution,
        nfe,
        fd_vgg16=90 / nfe + resolution,
        psnr=20 + nfe,
        lpips_vgg16=0.3 - nfe / 50,
        decode_seconds=0.01 * nfe,
        decode_seconds_quartiles=[0.009, 0.012] if (resolution, nfe) == (64, 1) else None,
    )
    for resolution in (64, 128)
    for nfe in (3, 1, 10)
] + [
    make_row("_a $b$ <i>", 64, None, fd_vgg16=12.5, psnr=24.0, lpips_vgg16=0.2, decode_seconds=None)
]
NAMES = ["fd_vgg16_over_nfe", "psnr_over_lpips", "quality_over_decode_time"]


def lines(figure) -> dict[str, np.ndarray]:
    """Label → points `[N, 2]` of the lines on the first axes."""
    return {line.get_label(): line.get_xydata() for line in figure.axes[0].get_lines()}


def test_lines_are_the_rows():
    figures = plots.draw(ROWS)
    assert list(figures) == NAMES
    distances = lines(figures["fd_vgg16_over_nfe"])
    assert np.allclose(distances["128 px, tiny"], [(1, 218), (3, 158), (10, 137)])
    assert np.allclose(distances["64 px, _a $b$ <i>"], [(0, 12.5), (1, 12.5)])  # all of the width
    quality = lines(figures["psnr_over_lpips"])
    assert np.allclose(quality["64 px, tiny"], [(0.28, 21), (0.24, 23), (0.1, 30)])
    assert np.allclose(quality["64 px, _a $b$ <i>"], [(0.2, 24)])
    nfe = [text.get_text() for text in figures["psnr_over_lpips"].axes[0].texts]
    assert nfe == ["1", "3", "10"] * 2
    time = lines(figures["quality_over_decode_time"])
    assert list(time) == ["64 px, tiny", "_quartiles", "128 px, tiny"]
    assert np.allclose(time["_quartiles"], [(9, 21), (12, 21)])  # a point's quartiles
    assert np.allclose(time["64 px, tiny"], [(10, 21), (30, 23), (100, 30)])


def test_every_distance_has_its_figure():
    rows = [make_row("tiny", 64, nfe, rfid=3.0, fd_alexnet=2.0, fd_vgg16=None) for nfe in (1, 3)]
    assert list(plots.draw(rows)) == ["rfid_over_nfe", "fd_alexnet_over_nfe"]


@pytest.mark.parametrize(
    "rows, names",
    [
        ([], []),
        ([make_row("folder", 64, None, fd_vgg16=3.0, psnr=20.0)], []),
        ([make_row("vae", 64, None, psnr=20.0, lpips_vgg16=0.1, decode_seconds=0.1)], []),
        ([make_row("tiny", 64, 3, fd_vgg16=3.0), make_row("b", 64, 3, fd_vgg16=3.0)], []),
        ([make_row("tiny", 64, nfe, psnr=20.0, decode_seconds=0.1) for nfe in (1, 3)], NAMES[2:]),
    ],
)
def test_figures_of_a_point_are_left_out(rows, names):
    assert list(plots.draw(rows)) == names


def test_svg_is_the_same_again_and_refers_to_nothing_outside():
    once, again = ([plots.svg(f) for f in plots.draw(ROWS).values()] for _ in range(2))
    assert once == again
    ids = [name for svg in once for name in re.findall(r'\bid="([^"]*)"', svg)]
    assert len(ids) == len(set(ids))
    for svg in once:
        assert svg.startswith("<svg") and "<metadata" not in svg
        targets = re.findall(r'href="([^"]*)"|url\(([^)]*)\)', svg)
        assert targets and all((a or b).startswith("#") for a, b in targets)
        assert {(a or b)[1:] for a, b in targets} <= set(ids)


def test_names_are_text():
    svg = plots.svg(plots.draw(ROWS)["psnr_over_lpips"])
    assert "64 px, _a $b$ &lt;i&gt;" in svg and "<i>" not in svg
