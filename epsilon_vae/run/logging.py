"""Writes a run's numbers: TensorBoard (through clu), metrics.csv, the console, the workdir.

Process 0 writes them; on the others, the same calls do nothing.
"""

import contextlib
import csv
import functools
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterator

import ml_collections
import numpy as np
from absl import logging
from clu import parameter_overview
from etils import epath
from PIL import Image
from tqdm import tqdm

from epsilon_vae.config import to_json
from epsilon_vae.output import OutputError, is_in_bucket, replacing, write_whole
from epsilon_vae.parallel import hosts
from epsilon_vae.parallel.sharding import sharding_table
from epsilon_vae.run.workdir import Heartbeat
from epsilon_vae.versions import versions

_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?([eE][-+]?\d+)?|inf|nan)", re.ASCII)


def on_first(function: Callable[..., None]) -> Callable[..., None]:
    """Has process 0 alone call a function; on the others it does nothing."""

    @functools.wraps(function)
    def call(*args, **kwargs) -> None:
        if hosts.is_first():
            function(*args, **kwargs)

    return call


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
        before, rows = _read_rows(path)
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


def _read_rows(path: epath.Path) -> tuple[list[str], list[dict[str, str]]]:
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


def _drop_later_events(folder: epath.Path, start_step: int) -> None:
    """Takes out of TensorBoard's files what a run that was killed wrote of steps to come."""
    import tensorflow as tf
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    for path in folder.iterdir():
        if not path.name.startswith("events.out.tfevents."):
            continue
        events = [*RawEventFileLoader(str(path)).Load()]  # up to one that is cut off or broken
        kept = [event for event in events if Event.FromString(event).step <= start_step]
        if len(kept) < len(events):
            with replacing(path) as partial, tf.io.TFRecordWriter(str(partial)) as writer:
                for event in kept:
                    writer.write(event)


class Console:
    """A progress bar on a terminal, plain lines elsewhere."""

    def __init__(self, start_step: int, num_steps: int):
        self._bar = tqdm(
            total=num_steps,
            initial=start_step,
            unit="step",
            dynamic_ncols=True,
            disable=not sys.stderr.isatty(),
        )

    def advance(self) -> None:
        """One step done."""
        self._bar.update()

    def line(self, text: str) -> None:
        """Prints a line, above the bar if there is one."""
        tqdm.write(text)
        sys.stdout.flush()

    def close(self) -> None:
        """Leaves the bar as it stands."""
        self._bar.close()


class RunLog:
    """Everything a run writes but its checkpoints; nothing on processes other than the first.

    Args:
      workdir: of the run.
      columns: names of the scalars that will be written.
      start_step, num_steps: the run's extent.
      heartbeat: of the run.
    """

    @on_first
    def __init__(
        self,
        workdir: str,
        columns: list[str],
        *,
        start_step: int,
        num_steps: int,
        heartbeat: Heartbeat,
    ):
        # clu's writers bring TensorFlow, which takes seconds: not for bad input, nor for processes
        # that write nothing. It only writes events here, and need not announce its kernels.
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
        if os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "1":  # JAX's default
            os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"  # what fails is raised
        from clu import metric_writers

        self._workdir, self._heartbeat = epath.Path(workdir), heartbeat
        self._csv = MetricsCSV(self._workdir / "metrics.csv", columns, start_step)
        _drop_later_events(self._workdir, start_step)
        self._tensorboard = metric_writers.SummaryWriter(str(workdir))
        self._console = Console(start_step, num_steps)

    @on_first
    def scalars(self, step: int, metrics: dict[str, float]) -> None:
        """Writes to metrics.csv and TensorBoard."""
        self._csv.write(step, metrics)
        with self._naming_events():
            self._tensorboard.write_scalars(step, metrics)

    @on_first
    def picture(self, step: int, picture: np.ndarray) -> None:
        """A uint8 grid `[H, W, 3]`, to TensorBoard and as `samples/<step>.png`."""
        with self._naming_events():
            self._tensorboard.write_images(step, {"samples": picture[None]})
        folder = self._workdir / "samples"
        folder.mkdir(exist_ok=True)
        png = io.BytesIO()
        Image.fromarray(picture).save(png, "png")
        write_whole(folder / f"{step:08d}.png", png.getvalue())

    @on_first
    def line(self, text: str) -> None:
        """Writes to the console."""
        self._console.line(text)

    @on_first
    def advance(self) -> None:
        """One step done, on the console."""
        self._console.advance()

    @on_first
    def beat(self, step: int) -> None:
        """The heartbeat."""
        self._heartbeat.beat(step)

    @on_first
    def close(self) -> None:
        """Flushes all writers."""
        self._console.close()
        is_failing = sys.exc_info()[0] is not None  # the first error counts
        with contextlib.suppress(Exception) if is_failing else self._naming_events():
            self._tensorboard.flush()

    @contextlib.contextmanager
    def _naming_events(self) -> Iterator[None]:
        """Raises `OutputError` for TensorFlow's errors."""
        try:
            yield
        except Exception as error:
            words = str(error).split(";", 1)[-1].split("\n")[0].strip()
            message = f"{self._workdir}: events for TensorBoard cannot be written ({words})"
            raise OutputError(message) from error


@on_first
def write_run_files(workdir: str, config: ml_collections.ConfigDict, params: dict) -> None:
    """`config.json`, `versions.json`, `parameters.txt`, and `sharding.txt`.

    Versions are of git commit, packages and devices. Sharding is where each parameter lives, and
    its EMA and moments with it.

    Args:
      workdir: of the run.
      config: resolved.
      params: of all networks, by network.
    """
    folder = epath.Path(workdir)
    table = parameter_overview.get_parameter_overview(params, include_stats=False)
    write_whole(folder / "config.json", to_json(config).encode())
    write_whole(folder / "versions.json", f"{json.dumps(versions(), indent=2)}\n".encode())
    write_whole(folder / "parameters.txt", f"{table}\n".encode())
    write_whole(folder / "sharding.txt", sharding_table(params).encode())
