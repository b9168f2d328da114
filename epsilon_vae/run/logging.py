"""Where a run's numbers go: TensorBoard (through clu), metrics.csv, the console, the workdir.

Process 0 writes them.
"""

import csv
import io
import json
import os
import sys

import ml_collections
import numpy as np
from clu import parameter_overview
from etils import epath
from PIL import Image
from tqdm import tqdm

from epsilon_vae.config import to_json
from epsilon_vae.output import write_whole
from epsilon_vae.parallel.sharding import sharding_table
from epsilon_vae.run.workdir import Heartbeat
from epsilon_vae.versions import versions


class MetricsCSV:
    """`metrics.csv`: a `step` column and one per metric; cells of metrics not measured are empty.

    Opened for a run that starts at `start_step`, it keeps the rows up to there and drops later
    ones, which the run will write again. Each row rewrites the file, since buckets cannot append.

    Args:
      path: of the file.
      columns: metric names.
      start_step: updates that the run's state has seen.
    """

    def __init__(self, path: epath.Path, columns: list[str], start_step: int):
        kept, old_columns = self._read(path, start_step)
        self._path, self._text = path, io.StringIO()
        fields = ["step", *dict.fromkeys([*old_columns, *columns])]
        self._writer = csv.DictWriter(self._text, fields, lineterminator="\n")
        self._writer.writeheader()
        self._writer.writerows(kept)
        self._save()

    @staticmethod
    def _read(path: epath.Path, start_step: int) -> tuple[list[dict], list[str]]:
        if not path.exists():
            return [], []
        reader = csv.DictReader(io.StringIO(path.read_text()))
        rows = [row for row in reader if int(row["step"]) <= start_step]
        return rows, reader.fieldnames[1:]

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Adds a row."""
        self._writer.writerow({"step": step} | {k: f"{v:.6g}" for k, v in metrics.items()})
        self._save()

    def _save(self) -> None:
        write_whole(self._path, self._text.getvalue().encode())


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
    """Everything a run writes but its checkpoints.

    Args:
      workdir: of the run.
      columns: names of the scalars that will be written.
      start_step, num_steps: the run's extent.
      heartbeat: of the run.
    """

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

    def scalars(self, step: int, metrics: dict[str, float]) -> None:
        """To TensorBoard and metrics.csv."""
        self._tensorboard.write_scalars(step, metrics)
        self._csv.write(step, metrics)

    def picture(self, step: int, picture: np.ndarray) -> None:
        """A uint8 grid `[H, W, 3]`, to TensorBoard and as `samples/<step>.png`."""
        self._tensorboard.write_images(step, {"samples": picture[None]})
        folder = self._workdir / "samples"
        folder.mkdir(exist_ok=True)
        png = io.BytesIO()
        Image.fromarray(picture).save(png, "png")
        write_whole(folder / f"{step:08d}.png", png.getvalue())

    def line(self, text: str) -> None:
        """To the console."""
        self._console.line(text)

    def advance(self) -> None:
        """One step done, on the console."""
        self._console.advance()

    def beat(self, step: int) -> None:
        """The heartbeat."""
        self._heartbeat.beat(step)

    def close(self) -> None:
        """Flushes all writers."""
        self._tensorboard.flush()
        self._console.close()


class NoLog(RunLog):
    """What the other processes have instead: nothing is written."""

    def __init__(self):
        """Opens nothing."""

    def scalars(self, step: int, metrics: dict[str, float]) -> None:
        """Not written."""

    def picture(self, step: int, picture: np.ndarray) -> None:
        """Not written."""

    def line(self, text: str) -> None:
        """Not printed."""

    def advance(self) -> None:
        """Not shown."""

    def beat(self, step: int) -> None:
        """Not written."""

    def close(self) -> None:
        """Nothing to flush."""


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
