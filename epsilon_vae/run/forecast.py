"""What a run will need of memory, disk and time, as far as that is known without compiling."""

import contextlib
import csv
import io
import math
from collections.abc import Iterator

import jax
import ml_collections
import numpy as np
from etils import epath

from epsilon_vae.checkpoint import in_words
from epsilon_vae.parallel.mesh import make_mesh
from epsilon_vae.step_folders import newest_step
from epsilon_vae.training.sharded import state_shapes
from epsilon_vae.training.step import TrainStep


def forecast(
    config: ml_collections.ConfigDict, train_step: TrainStep, workdir: str | None
) -> Iterator[str]:
    """Yields lines on the bytes of the state and of the checkpoints, and on the hours to come.

    Args:
      config: of the run.
      train_step: of the config.
      workdir: of the run, whose metrics.csv tells what a step takes; None for a run to come.
    """
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.space)
    leaves = jax.tree.leaves(state_shapes(train_step, mesh))
    size = sum(math.prod(x.shape) * x.dtype.itemsize for x in leaves)
    share = sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves)
    yield (
        f"memory for the state (parameters, EMA, optimizers): {in_words(share)} a device; for all "
        "that a step needs, python -m epsilon_vae.compile compiles it for TPUs, without one"
    )
    count = max_checkpoints(config)
    yield f"disk for checkpoints: {in_words(count * size)}, {count} of {in_words(size)} at most"
    seconds = _step_seconds(workdir) if workdir else []
    if seconds:
        median = float(np.median(seconds))
        steps = max(0, config.num_steps - (newest_step(workdir) or 0))
        yield (
            f"time for the {steps} steps to come: {steps * median / 3600:.2f} h, {median:.3g} s "
            f"each, as in {workdir}/metrics.csv; evaluations and checkpoints come on top"
        )


def max_checkpoints(config: ml_collections.ConfigDict) -> int:
    """Checkpoints that a run has at a time, at most: one is written before one is removed."""
    best = config.checkpoint.keep_best != "none"
    saved = math.ceil(config.num_steps / config.checkpoint.every_steps)
    if best:  # An evaluation may save too.
        saved += config.num_steps // config.eval.every_steps
    permanent = config.checkpoint.permanent_every_steps
    never_removed = config.num_steps // permanent if permanent else 0
    return min(saved, config.checkpoint.keep + 1 + best + never_removed)


def _step_seconds(workdir: str) -> list[float]:
    """Seconds of a step by row of metrics.csv; what is no number is left out."""
    path = epath.Path(workdir) / "metrics.csv"
    text = path.read_bytes().decode(errors="replace") if path.exists() else ""
    seconds = []
    with contextlib.suppress(csv.Error):  # of a cell of megabytes
        for row in csv.DictReader(io.StringIO(text)):
            with contextlib.suppress(TypeError, ValueError):
                seconds.append(float(row.get("step_seconds")))
    return [x for x in seconds if 0 < x < math.inf]
