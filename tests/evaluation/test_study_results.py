"""A study's table and plot from the rows of an evaluation."""

import numpy as np

from epsilon_vae.evaluation import study_results


def row(reconstructor: str, nfe: int, **numbers) -> dict:
    return {"reconstructor": reconstructor, "resolution": 32, "nfe": nfe, "num_images": 3} | numbers


ROWS = [
    row("b-seed0", 5, psnr=20.0, fd_alexnet=10.0, decode_seconds=None),
    row("a-seed0", 100, psnr=15.0, fd_alexnet=30.0, decode_seconds=0.1),
    row("b-seed1", 5, psnr=22.0, fd_alexnet=14.0, decode_seconds=0.1),
    row("b-seed0", 3, psnr=19.0, fd_alexnet=11.0, decode_seconds=0.1),
]


def test_table_has_means_and_deviations_over_seeds_beside_the_paper(tmp_path):
    study_results.write(tmp_path, ROWS, {"a": 24.11, "b": None})
    lines = (tmp_path / "study.md").read_text().splitlines()
    assert lines[0] == "| Variant | NFE | Seeds | FD AlexNet ↓ | PSNR (dB) ↑ | rFID (paper) |"
    assert lines[2] == "| a | 100 | 1 | 30.00 | 15.00 | *24.11* |"
    assert lines[3] == "| b | 3 | 1 | 11.00 | 19.00 | – |"
    assert lines[4] == "| b | 5 | 2 | 12.00 ± 2.83 | 21.00 ± 1.41 | – |"
    assert (tmp_path / "study.png").stat().st_size > 1000


def test_plot_has_every_seed():
    figure = study_results.draw(study_results.by_variant(ROWS, ["a", "b"]))
    frechet, psnr = figure.axes
    assert [label.get_text() for label in psnr.get_xticklabels()] == ["a\n@100", "b\n@3", "b\n@5"]
    points = np.concatenate([line.get_ydata() for line in psnr.lines[1:]])
    assert sorted(points) == [15, 19, 20, 22]
    assert list(frechet.lines[0].get_ydata()) == [30, 11, 12]
