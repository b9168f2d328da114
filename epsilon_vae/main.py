"""Trains an ε-VAE: `python -m epsilon_vae.main --config=configs/tiny.py --workdir=DIR`.

Run the same command again to resume. Exit codes: 0 done, or stopped and saved; 1 training failed;
2 the command or its config cannot run.
"""

import pathlib
import sys
from collections.abc import Sequence

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from epsilon_vae.checkpoint import CheckpointError
from epsilon_vae.command_line import UsageError, check_overrides, one_line
from epsilon_vae.config import ConfigError, check, to_json
from epsilon_vae.data.decode import DataError

CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, as configs/tiny.py.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder for checkpoints, metrics and samples.")
DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Print the resolved config, parameter counts and FLOPs a step, and exit."
)


def parse_flags(argv: Sequence[str]) -> list[str]:
    """absl's flags; what is wrong with them ends the program with one line and code 2."""
    try:
        check_overrides(argv)
        rest = flags.FLAGS(argv)
        if CONFIG.value is None:
            raise UsageError("--config is missing: name a config file, as --config=configs/tiny.py")
        if WORKDIR.value is None and not DRY_RUN.value:
            raise UsageError("--workdir is missing: name a folder, as --workdir=runs/tiny")
        CONFIG.value.lock()  # a config file that failed to load says so at its first use
        if len(rest) > 1:
            raise UsageError(f"{rest[1]!r} is not a flag; flags start with --")
    except (flags.Error, ValueError, OSError) as error:
        _exit(2, one_line(error))
    return rest


def main(argv: Sequence[str]) -> None:
    """Checks the config, then hands over to the loop."""
    del argv
    logging.set_verbosity(logging.WARNING)
    try:
        config = CONFIG.value
        check(config, jax.device_count())
        if DRY_RUN.value:
            dry_run(config)
            return
        # The loop brings TensorFlow with it: a wrong config is told before that.
        from epsilon_vae import builders
        from epsilon_vae.training import loop

        builders.networks(config)
        make_workdir(WORKDIR.value)
        done = loop.train(config, WORKDIR.value)
    except (UsageError, ConfigError, DataError, CheckpointError) as error:
        _exit(2, str(error))
    except FloatingPointError as error:
        _exit(1, str(error))
    if not done:
        print("Stopped and saved. To go on, run the same command again.")


def make_workdir(workdir: str) -> None:
    """Makes the folder, and raises `UsageError` where that cannot be."""
    try:
        pathlib.Path(workdir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"--workdir={workdir}: cannot be made ({error.strerror}); name a folder of yours"
        ) from error


def dry_run(config) -> None:
    """Prints the resolved config, the parameter counts and the FLOPs of a step."""
    from epsilon_vae import builders
    from epsilon_vae.training.flops import parameter_counts, step_flops

    step = builders.train_step(config)
    print(to_json(config), end="")
    for name, count in parameter_counts(step.objective, config.data.resolution).items():
        print(f"{name} parameters: {count}")
    frozen = builders.frozen_weights(config)
    flops = step_flops(step, frozen, config.batch_size, config.data.resolution)
    print(f"FLOPs a step: {flops:.4g} ({flops / config.batch_size:.4g} an image)")


def _exit(code: int, message: str) -> None:
    print(f"epsilon_vae: {message}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
