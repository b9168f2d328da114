"""Kills a run at random moments, as a host that loses its power, and compares what it ends in."""

import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from epsilon_vae.run.monitor import SPEED_METRICS
from tests.helpers import assert_same_state, read_metrics
from tests.processes import Process, finish

RunModule = Callable[..., Process]

# What differs from run to run: seconds, and the memory that is in use.
OF_THE_MACHINE = (*SPEED_METRICS, "memory/")


def run_flags(workdir: Path, num_steps: int) -> tuple[str, ...]:
    """Flags of a run that logs each step, saves every third, evaluates and draws every fifth."""
    return (
        "--config=tests/micro.py",
        f"--workdir={workdir}",
        f"--config.num_steps={num_steps}",
        "--config.checkpoint.every_steps=3",
        "--config.eval.every_steps=5",
    )


def kill_at_random(
    run_module: RunModule,
    workdir: Path,
    *,
    num_steps: int,
    kills: int,
    seconds: float,
    rng: np.random.Generator,
) -> list[str]:
    """Starts a run again and again, kills it each time, and then lets it end.

    Args:
      run_module: starts a command.
      workdir: of the run.
      num_steps: of the run.
      kills: how often it is killed; fewer, if it ends before.
      seconds: the latest moment of a kill, after the start.
      rng: draws the moments.

    Returns:
      The last line that the run had printed, for each kill.
    """
    last_lines = []
    for _ in range(kills):
        process = run_module("epsilon_vae.main", *run_flags(workdir, num_steps))
        time.sleep(rng.uniform(0, seconds))
        process.kill()
        out, _ = process.communicate()
        if process.returncode == 0:
            break
        lines = [line for line in re.split(r"[\r\n]+", out) if line.strip()]
        last_lines.append(lines[-1] if lines else "(nothing printed yet)")
    finish(run_module("epsilon_vae.main", *run_flags(workdir, num_steps)))
    return last_lines


def assert_same_run(one: Path, other: Path, num_steps: int) -> None:
    """Two runs have the same bits in their last checkpoint, the same rows, the same pictures."""
    assert_same_state(one, other, num_steps)
    rows, others = (
        [
            {name: x for name, x in row.items() if not name.startswith(OF_THE_MACHINE)}
            for row in read_metrics(workdir)
        ]
        for workdir in (one, other)
    )
    assert rows == others
    pictures, expected = (
        {path.name: path.read_bytes() for path in (workdir / "samples").iterdir()}
        for workdir in (one, other)
    )
    assert pictures == expected
