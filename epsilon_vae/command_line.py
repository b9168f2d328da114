"""What the doors that take a config share: their flags are checked before absl reads them."""

import re
from collections.abc import Callable, Sequence

from absl import flags

from epsilon_vae.config import check_key, check_override


class UsageError(ValueError):
    """A command line that cannot run."""


def check_overrides(argv: Sequence[str]) -> None:
    """Raises `ConfigError` for a `--config.KEY=VALUE` whose key or type is wrong."""
    for argument, following in zip(argv[1:], [*argv[2:], ""], strict=True):
        override = re.fullmatch(r"--?config\.([\w.]+)(?:=(.*))?", argument, re.DOTALL)
        if override and override[2] is None:  # the value follows; absl reads it
            check_key(override[1], following)
        elif override:
            check_override(override[1], override[2])


def parse(
    argv: Sequence[str], config: flags.FlagHolder, check: Callable[[], None], example: str
) -> list[str]:
    """absl's flags, parsed.

    Args:
      argv: the command line.
      config: the door's `--config`.
      check: of the door's other flags; raises `UsageError`.
      example: of a config file, for the message.

    Raises:
      ValueError, OSError, flags.Error: what is wrong; `one_line` tells it.
    """
    check_overrides(argv)
    rest = flags.FLAGS(argv)
    if config.value is None:
        raise UsageError(f"--config is missing: name a config file, as --config={example}")
    check()
    config.value.lock()  # a config file that failed to load says so at its first use
    if len(rest) > 1:
        raise UsageError(f"{rest[1]!r} is not a flag; flags start with --")
    return rest


def one_line(error: Exception) -> str:
    """The message; of a config file's own error, which comes as a traceback, the last line."""
    message = str(error).strip()
    if "Traceback" in message:
        message = message.splitlines()[-1]
    return " ".join(message.split())
