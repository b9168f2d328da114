"""metrics.csv: rows are appended, and what a resumed run writes again is dropped."""

from etils import epath

from epsilon_vae.output import is_in_bucket
from epsilon_vae.run import logging
from epsilon_vae.run.logging import MetricsCSV


def test_rows_are_appended_to_the_file(tmp_path):
    path = tmp_path / "metrics.csv"
    table = MetricsCSV(path, ["loss", "psnr"], start_step=0)
    number = path.stat().st_ino
    table.write(1, {"loss": 0.25})
    table.write(1, {"psnr": 20})
    assert path.read_text() == "step,loss,psnr\n1,0.25,\n1,,20\n" and path.stat().st_ino == number


def test_a_resumed_run_drops_later_rows_and_a_line_cut_off(tmp_path):
    """A column that is new comes after the old ones."""
    path = tmp_path / "metrics.csv"
    path.write_text("step,loss\n1,0.5\n2,0.4\n3,0.3\n2,0")
    table = MetricsCSV(path, ["psnr", "loss"], start_step=2)
    assert path.read_text() == "step,loss,psnr\n1,0.5,\n2,0.4,\n"
    table.write(3, {"loss": 0.1, "psnr": 21})
    assert path.read_text().endswith("\n2,0.4,\n3,0.1,21\n")
    path.write_text("step,lo")  # a kill before the first row
    MetricsCSV(path, ["loss"], start_step=0)
    assert path.read_text() == "step,loss\n"


def test_in_a_bucket_each_row_rewrites_the_file(tmp_path, monkeypatch):
    assert is_in_bucket(epath.Path("gs://bucket/run")) and not is_in_bucket(tmp_path)
    monkeypatch.setattr(logging, "is_in_bucket", lambda path: True)
    path = tmp_path / "metrics.csv"
    table = MetricsCSV(path, ["loss"], start_step=0)
    number = path.stat().st_ino
    table.write(1, {"loss": 1})
    assert path.read_text() == "step,loss\n1,1\n" and path.stat().st_ino != number
