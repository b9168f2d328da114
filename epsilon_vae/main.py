"""Trains an ε-VAE: `python -m epsilon_vae.main --config=configs/tiny.py --workdir=DIR`.

Or a latent diffusion model of its latents, with the config of one, as configs/dit_tiny.py.

--config.KEY=VALUE sets a key of the config; docs/reference/config.md lists them.

Run the same command again to resume. On several processes or hosts, each runs this command. Exit
codes: 0 done, or stopped by Ctrl-C and saved; 1 training failed after the first step, its state
saved where that could be, or another process was lost; 2 the command, its config or its data cannot
be used; 75 preempted (SIGTERM or SIGHUP) and saved, to be started again.
"""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Sequence

import ml_collections
from absl import app, flags, logging
from etils import epy
from ml_collections import config_flags

from epsilon_vae import command_line
from epsilon_vae.command_line import PREEMPTED, UsageError, exit_codes, parse_flags
from epsilon_vae.config import ConfigError, check, to_json

with epy.lazy_imports():  # of what takes seconds, and is not needed for flags
    import jax

    from epsilon_vae.parallel import hosts
    from epsilon_vae.run import forecast, loop, wandb_writer
    from epsilon_vae.training import build, flops

CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, as configs/tiny.py.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder for checkpoints, metrics and samples.")
DRY_RUN = flags.DEFINE_bool(
    "dry_run",
    default=False,
    help="Print the resolved config, parameter counts, FLOPs a step, memory, disk and, where "
    "--workdir has timed a step, hours, and exit.",
)
LOGGER = flags.DEFINE_enum(
    "logger", None, ["wandb"], "Where metrics go beside metrics.csv and TensorBoard."
)
HOSTS = command_line.HostFlags()


def check_flags() -> None:
    """Raises `UsageError` for flags that are missing or do not fit."""
    command_line.check_config(CONFIG, "configs/tiny.py")
    if WORKDIR.value is None and not DRY_RUN.value:
        raise UsageError("--workdir is missing: name a folder, as --workdir=runs/tiny")
    if LOGGER.value == "wandb":
        wandb_writer.check_is_installed()


def main(argv: Sequence[str]) -> None:
    """Joins the other processes, if any, checks the config, then hands over to the loop."""
    del argv
    logging.set_verbosity(logging.WARNING)
    # Tracing makes many objects, and looking for cycles as often as by default a third of its time.
    gc.set_threshold(50_000, 20, 100)
    with exit_codes(OSError):  # of the time before the first step
        if DRY_RUN.value:
            check(CONFIG.value, jax.device_count())
            dry_run(CONFIG.value)
            return
        HOSTS.start()
        stopped_by = train(CONFIG.value)
    if stopped_by:
        if hosts.is_first():
            print("Stopped and saved. To resume, run the same command again.")
        sys.exit(PREEMPTED if stopped_by == signal.SIGTERM else 0)


def train(config: ml_collections.ConfigDict) -> signal.Signals | None:
    """Checks the config on all processes, and trains."""
    check(config, jax.device_count())
    if not hosts.all_equal(to_json(config)):
        raise ConfigError("config: not the same for all processes; give them all the same flags")
    build.build_objective(config)
    return loop.train(config, WORKDIR.value, LOGGER.value)


def dry_run(config) -> None:
    """Prints the resolved config, and what the run will need as far as it is known."""
    step = build.build_train_step(config)
    print(to_json(config), end="")
    for name, count in flops.parameter_counts(step.objective).items():
        print(f"{name} parameters: {count}")
    frozen = build.frozen_inputs(config)
    count = flops.step_flops(step, frozen, config.batch_size)
    print(f"FLOPs a step: {count:.4g} ({count / config.batch_size:.4g} an image)")
    for line in forecast.forecast(config, step, WORKDIR.value):
        print(line)


if __name__ == "__main__":
    app.run(main, flags_parser=lambda argv: parse_flags(argv, check_flags))
