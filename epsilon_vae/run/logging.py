"""Writes a run's numbers: metrics.csv, the console, the workdir; TensorBoard and W&B through clu.

Process 0 writes them; on the others, the same calls do nothing.
"""

import concurrent.futures
import contextlib
import functools
import io
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from typing import Any

import ml_collections
import numpy as np
from clu import parameter_overview
from etils import epath
from PIL import Image

from epsilon_vae.config import flatten, to_json
from epsilon_vae.names import printable
from epsilon_vae.output import OutputError, replacing, write_whole
from epsilon_vae.parallel import hosts
from epsilon_vae.parallel.sharding import sharding_table
from epsilon_vae.run.console import Console, closing_lines
from epsilon_vae.run.metrics_csv import MetricsCSV
from epsilon_vae.run.wandb_writer import WandbWriter
from epsilon_vae.run.workdir import Heartbeat
from epsilon_vae.versions import versions

# Groups of numbers in the order that TensorBoard and W&B, which sort by name, shall show them in.
_GROUPS = ("loss", "eval", "lr", "speed", "grad_norm")
_SPEED = ("images_per_second", "wait_percent", "goodput_percent", "step_seconds")


def on_first(function: Callable[..., None]) -> Callable[..., None]:
    """Has process 0 alone call a function; on the others it does nothing."""

    @functools.wraps(function)
    def call(*args, **kwargs) -> None:
        if hosts.is_first():
            function(*args, **kwargs)

    return call


def grouped(name: str) -> str:
    """A metric's name with its group's place: 'loss/flow' becomes '1_loss/flow'."""
    group, slash, rest = name.partition("/")
    if not slash:
        group, rest = "speed" if name.startswith(_SPEED) else "data", name
    place = _GROUPS.index(group) if group in _GROUPS else len(_GROUPS)
    return f"{place + 1}_{group}/{rest}"


def _drop_later_events(folder: epath.Path, start_step: int) -> None:
    """Takes out of TensorBoard's files what a run that was killed wrote of steps to come.

    And the config's values, of which the first would count.
    """
    import tensorflow as tf
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    def is_kept(event: Event) -> bool:
        tags = (value.tag for value in event.summary.value)
        return event.step <= start_step and not any(x.startswith("_hparams_/") for x in tags)

    for path in folder.iterdir():
        if not path.name.startswith("events.out.tfevents."):
            continue
        events = [*RawEventFileLoader(str(path)).Load()]  # up to one that is cut off or broken
        kept = [event for event in events if is_kept(Event.FromString(event))]
        if len(kept) < len(events):
            with replacing(path) as partial, tf.io.TFRecordWriter(str(partial)) as writer:
                for event in kept:
                    writer.write(event)


class RunLog:
    """Everything a run writes but its checkpoints; nothing on processes other than the first.

    Args:
      workdir: of the run.
      config: of the run.
      columns: names of the scalars that will be written.
      start_step: the run begins after it.
      heartbeat: of the run.
      logger: 'wandb', or None for CSV and TensorBoard alone.

    Raises:
      WandbError: W&B does not start.
    """

    @on_first
    def __init__(
        self,
        workdir: str,
        config: ml_collections.ConfigDict,
        *,
        columns: list[str],
        start_step: int,
        heartbeat: Heartbeat,
        logger: str | None = None,
    ):
        self._config, self._workdir, self._heartbeat = config, epath.Path(workdir), heartbeat
        self._csv = MetricsCSV(self._workdir / "metrics.csv", columns, start_step)
        self._console = Console(start_step, config.num_steps)
        others = []
        if logger == "wandb":
            others.append(WandbWriter(self._workdir))
            self.line(f"W&B: {others[-1].place}")
        # It only writes events here, and need not announce its kernels.
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
        if os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "1":  # JAX's default
            os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"  # what fails is raised
        # clu's writers bring TensorFlow, which takes seconds: while XLA compiles the step.
        thread = concurrent.futures.ThreadPoolExecutor(1)
        self._writer = thread.submit(self._open_writers, start_step, others)
        thread.shutdown(wait=False)

    def _open_writers(self, start_step: int, others: list) -> Any:
        from clu import metric_writers

        _drop_later_events(self._workdir, start_step)
        writer = metric_writers.MultiWriter(
            [metric_writers.SummaryWriter(str(self._workdir)), *others]
        )
        writer.write_texts(start_step, {"config": f"```\n{to_json(self._config)}```"})
        writer.write_hparams(flatten(self._config))
        return writer

    @on_first
    def scalars(self, step: int, metrics: dict[str, float]) -> None:
        """Writes to metrics.csv, TensorBoard and W&B."""
        self._csv.write(step, metrics)
        with self._naming_writers():
            self._writer.result().write_scalars(
                step, {grouped(name): x for name, x in metrics.items()}
            )

    @on_first
    def picture(self, step: int, picture: np.ndarray) -> None:
        """A uint8 grid `[H, W, 3]`, to TensorBoard and W&B and as `samples/<step>.png`."""
        with self._naming_writers():
            self._writer.result().write_images(step, {"samples": picture[None]})
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
    def done(self, step: int, kept: int | None) -> None:
        """Says on the console what has come of the run; `kept` is the step kept as the best."""
        self.line(closing_lines(self._config, str(self._workdir), step=step, kept=kept))

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
        """Closes all writers."""
        self._console.close()
        is_failing = sys.exc_info()[0] is not None  # the first error counts
        with contextlib.suppress(Exception) if is_failing else self._naming_writers():
            self._writer.result().close()

    @contextlib.contextmanager
    def _naming_writers(self) -> Iterator[None]:
        """Raises `OutputError` for errors of TensorFlow and wandb."""
        try:
            yield
        except Exception as error:
            words = str(error).split(";", 1)[-1].split("\n")[0].strip()
            message = f"{self._workdir}: numbers for TensorBoard or W&B cannot be written ({words})"
            raise OutputError(message) from error


@on_first
def write_run_files(workdir: str, config: ml_collections.ConfigDict, params: dict) -> None:
    """`config.json`, `versions.json`, `parameters.txt`, and `sharding.txt`.

    Versions are of git commit, packages and devices, beside the command's arguments. Sharding is
    where each parameter lives, and its EMA and moments with it.

    Args:
      workdir: of the run.
      config: resolved.
      params: of all networks, by network.
    """
    folder = epath.Path(workdir)
    table = parameter_overview.get_parameter_overview(params, include_stats=False)
    write_whole(folder / "config.json", to_json(config).encode())
    made_with = {"arguments": printable(shlex.join(sys.argv[1:]))} | versions()
    write_whole(folder / "versions.json", f"{json.dumps(made_with, indent=2)}\n".encode())
    write_whole(folder / "parameters.txt", f"{table}\n".encode())
    write_whole(folder / "sharding.txt", sharding_table(params).encode())
