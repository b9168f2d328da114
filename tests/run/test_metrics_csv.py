"""metrics.csv: rows are appended, and what a resumed run writes again is dropped."""

import pytest
from etils import epath

from epsilon_vae.output import is_in_bucket
from epsilon_vae.run import metrics_csv
from epsilon_vae.run.metrics_csv import MetricsCSV


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
    monkeypatch.setattr(metrics_csv, "is_in_bucket", lambda path: True)
    path = tmp_path / "metrics.csv"
    table = MetricsCSV(path, ["loss"], start_step=0)
    number = path.stat().st_ino
    table.write(1, {"loss": 1})
    assert path.read_text() == "step,loss\n1,1\n" and path.stat().st_ino != number


GOOD = b"step,loss\n1,0.5\n2,0.4\n"


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        (b"", ""),
        (b"\0" * 4096, ""),
        (b"\n\n", ""),
        (b"loss\n1\n", ""),
        (b"{}", ""),
        (b"st\0p,loss\n1,0.5\n", ""),
        (b"\xef\xbb\xbf" + GOOD, "1,0.5\n2,0.4\n"),
        (GOOD.replace(b"\n", b"\r\n"), "1,0.5\n2,0.4\n"),
        (GOOD + b"\0" * 100, "1,0.5\n2,0.4\n"),
        (GOOD + b"\0" * 100 + b"\n", "1,0.5\n2,0.4\n"),
        (GOOD + b"2", "1,0.5\n2,0.4\n"),
        (GOOD + b"\n2\n", "1,0.5\n2,0.4\n"),
        (GOOD + b"2,0.3,7\n", "1,0.5\n2,0.4\n"),
        (GOOD + b"two,0.3\n" + b"1_0,0.3\n" + b"9" * 5000 + b",1\n", "1,0.5\n2,0.4\n"),
        (GOOD + b"2,0.\xff3\n", "1,0.5\n2,0.4\n"),
        (GOOD + b'2,"0.3\n', "1,0.5\n2,0.4\n"),
        (GOOD + b"2," + b"3" * 200_000 + b"x\n", "1,0.5\n2,0.4\n"),
        (GOOD + GOOD, "1,0.5\n2,0.4\n" * 2),
        (GOOD + b"step,psnr,loss\n2,21,\n", "1,0.5,\n2,0.4,\n2,,21\n"),
        (GOOD + b"2,nan\n2,-inf\n2,1e-05\n", "1,0.5\n2,0.4\n2,nan\n2,-inf\n2,1e-05\n"),
    ],
)
def test_what_a_power_cut_leaves_is_left_out_or_set_aside(tmp_path, content, kept):
    path = tmp_path / "metrics.csv"
    path.write_bytes(content)
    MetricsCSV(epath.Path(path), ["loss"], start_step=2)
    header, _, rows = path.read_text().partition("\n")
    assert rows == kept and header == ("step,loss,psnr" if b"psnr" in content else "step,loss")
    aside = [other.read_bytes() for other in tmp_path.iterdir() if other != path]
    assert aside == ([] if kept else [content])
