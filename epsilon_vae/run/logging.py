"""Where a run's numbers go: TensorBoard (through clu), metrics.csv, the console, the workdir.

Process 0 writes them; on the others, the same calls do nothing.
"""

import csv
import functools
import io
import json
import os
import sys
from collections.abc import Callable

import ml_collections
import numpy as np
from clu import parameter_overview
from etils import epath
from PIL import Image
from tqdm import tqdm

from epsilon_vae.config import to_json
from epsilon_vae.output import is_in_bucket, write_whole
from epsilon_vae.parallel import hosts
from epsilon_vae.parallel.sharding import sharding_table
from epsilon_vae.run.workdir import Heartbeat
from epsilon_vae.versions import versions


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
    ones, which the run will write again, and a last line that a kill cut off. Rows are appended;
    in a bucket, which cannot do that, each rewrites the file.

    Args:
      path: of the file.
      columns: metric names.
      start_step: updates that the run's state has seen.
    """

    def __init__(self, path: epath.Path, columns: list[str], start_step: int):
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        reader = csv.DictReader(line for line in lines if line.endswith("\n"))
        kept = [row for row in reader if int(row["step"]) <= start_step]
        fields = dict.fromkeys(["step", *(reader.fieldnames or ()), *columns])
        self._path, self._fields = path, list(fields)
        write_whole(path, self._lines([dict(zip(fields, fields, strict=True)), *kept]).encode())

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Adds a row."""
        line = self._lines([{"step": step} | {k: f"{v:.6g}" for k, v in metrics.items()}])
        if is_in_bucket(self._path):
            write_whole(self._path, f"{self._path.read_text()}{line}".encode())
        else:
            with self._path.open("a") as file:
                file.write(line)

    def _lines(self, rows: list[dict]) -> str:
        text = io.StringIO()
        csv.DictWriter(text, self._fields, lineterminator="\n").writerows(rows)
        return text.getvalue()


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
        from clu import metric_writers

        self._workdir, self._heartbeat = epath.Path(workdir), heartbeat
        self._csv = MetricsCSV(self._workdir / "metrics.csv", columns, start_step)
        self._tensorboard = metric_writers.SummaryWriter(str(workdir))
        self._console = Console(start_step, num_steps)

    @on_first
    def scalars(self, step: int, metrics: dict[str, float]) -> None:
        """To TensorBoard and metrics.csv."""
        self._tensorboard.write_scalars(step, metrics)
        self._csv.write(step, metrics)

    @on_first
    def picture(self, step: int, picture: np.ndarray) -> None:
        """A uint8 grid `[H, W, 3]`, to TensorBoard and as `samples/<step>.png`."""
        self._tensorboard.write_images(step, {"samples": picture[None]})
        folder = self._workdir / "samples"
        folder.mkdir(exist_ok=True)
        png = io.BytesIO()
        Image.fromarray(picture).save(png, "png")
        write_whole(folder / f"{step:08d}.png", png.getvalue())

    @on_first
    def line(self, text: str) -> None:
        """To the console."""
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
        self._tensorboard.flush()
        self._console.close()


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
