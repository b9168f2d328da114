"""Where a run's numbers go: TensorBoard (through clu), metrics.csv, the console, the workdir.

The only file that imports clu's writers, and through them TensorFlow.
"""

import csv
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys

import jax
import ml_collections
import numpy as np
from PIL import Image
from tqdm import tqdm

from epsilon_vae.config import to_json

# TensorFlow, which clu's writers bring, only writes events here: it need not announce its kernels.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
from clu import metric_writers, parameter_overview  # noqa: E402

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


class MetricsCSV:
    """`metrics.csv`: a `step` column and one per metric; cells of metrics not measured are empty.

    Opened for a run that starts at `start_step`, it keeps the rows up to there and drops later
    ones, which the run will write again, and a row that was cut short.

    Args:
      path: of the file.
      columns: metric names.
      start_step: updates that the run's state has seen.
    """

    def __init__(self, path: pathlib.Path, columns: list[str], start_step: int):
        kept, old_columns = self._read(path, start_step)
        fields = ["step", *dict.fromkeys([*old_columns, *columns])]
        unfinished = path.with_suffix(".csv.tmp")
        self._file = unfinished.open("w", newline="")
        self._writer = csv.DictWriter(self._file, fields)
        self._writer.writeheader()
        self._writer.writerows(kept)
        self._file.flush()
        unfinished.replace(path)

    @staticmethod
    def _read(path: pathlib.Path, start_step: int) -> tuple[list[dict], list[str]]:
        if not path.exists():
            return [], []
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            fields = reader.fieldnames or ["step"]
            rows = [row for row in reader if None not in row.values() and row["step"].isdigit()]
        return [row for row in rows if int(row["step"]) <= start_step], fields[1:]

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Appends a row, at once on disk."""
        self._writer.writerow({"step": step} | {k: f"{v:.6g}" for k, v in metrics.items()})
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


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
    """

    def __init__(self, workdir: str, columns: list[str], start_step: int, num_steps: int):
        self._workdir = pathlib.Path(workdir)
        self._csv = MetricsCSV(self._workdir / "metrics.csv", columns, start_step)
        self._tensorboard = metric_writers.SummaryWriter(str(self._workdir))
        self.console = Console(start_step, num_steps)

    def scalars(self, step: int, metrics: dict[str, float]) -> None:
        """To TensorBoard and metrics.csv."""
        self._tensorboard.write_scalars(step, metrics)
        self._csv.write(step, metrics)

    def picture(self, step: int, picture: np.ndarray) -> None:
        """A uint8 grid `[H, W, 3]`, to TensorBoard and as `samples/<step>.png`."""
        self._tensorboard.write_images(step, {"samples": picture[None]})
        folder = self._workdir / "samples"
        folder.mkdir(exist_ok=True)
        Image.fromarray(picture).save(folder / f"{step:08d}.png")

    def close(self) -> None:
        """Flushes all writers."""
        self._tensorboard.flush()
        self._csv.close()
        self.console.close()


def write_run_files(workdir: str, config: ml_collections.ConfigDict, params: dict) -> None:
    """`config.json`, `versions.json` (git commit, packages, devices) and `parameters.txt`.

    Args:
      workdir: of the run.
      config: resolved.
      params: of all networks, by network.
    """
    folder = pathlib.Path(workdir)
    (folder / "config.json").write_text(to_json(config))
    (folder / "versions.json").write_text(json.dumps(_versions(), indent=2) + "\n")
    table = parameter_overview.get_parameter_overview(params, include_stats=False)
    (folder / "parameters.txt").write_text(table + "\n")


def _versions() -> dict[str, str]:
    """Git commit ('+' marks uncommitted changes), Python, packages and devices of this process."""
    here = pathlib.Path(__file__).parent
    git = ["git", "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
    described = subprocess.run(git, cwd=here, capture_output=True, text=True, check=False)
    versions = {
        "git_commit": described.stdout.strip() or "unknown",
        "python": platform.python_version(),
        "devices": f"{jax.device_count()} {jax.devices()[0].device_kind}",
    }
    return versions | {name: importlib.metadata.version(name) for name in PACKAGES}
