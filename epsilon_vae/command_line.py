"""The parts that all commands share: flags, one-line errors and exit codes.

Flags of a config are checked before absl reads them; `HostFlags` are those of several processes.
"""

import contextlib
import difflib
import glob
import importlib.util
import inspect
import logging
import os
import pathlib
import re
import signal
import sys
import threading
import traceback
import types
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, TextIO

from absl import flags
from absl import logging as absl_logging
from etils import epy

from epsilon_vae.beat import Beat
from epsilon_vae.config import ANY, check_key, check_override
from epsilon_vae.errors import FailedError, UserError, reason
from epsilon_vae.names import printable

with epy.lazy_imports():  # of what takes seconds, and is not needed for flags
    import jax

    from epsilon_vae.parallel import hosts

SHARED_CONFIGS = ("common", "latent_diffusion", "studies")  # what configs are made of
PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: launchers try again

_beat = Beat()

# `--help` of a command then shows the flags that `HostFlags` defines for it.
flags.disclaim_key_flags()


class UsageError(UserError):
    """A command line that cannot run."""


class HostFlags:
    """Defines the flags by which several processes find each other."""

    def __init__(self):
        self._coordinator = flags.DEFINE_string(
            "coordinator_address",
            None,
            "HOST:PORT of process 0. Cloud TPU, GKE and SLURM need none.",
        )
        self._num_processes = flags.DEFINE_integer(
            "num_processes", None, "With --coordinator_address."
        )
        self._process_id = flags.DEFINE_integer(
            "process_id", None, "From 0, with --coordinator_address."
        )
        self._startup_timeout = flags.DEFINE_integer(
            "startup_timeout_seconds", 300, "How long processes wait for each other.", lower_bound=1
        )
        self._heartbeat_timeout = flags.DEFINE_integer(
            "heartbeat_timeout_seconds",
            100,
            "After so much silence a process counts as lost, and the others end.",
            lower_bound=1,
        )

    def start(self) -> None:
        """Joins the other processes, if any: `hosts.start`."""
        hosts.start(
            coordinator_address=self._coordinator.value,
            num_processes=self._num_processes.value,
            process_id=self._process_id.value,
            startup_timeout_seconds=self._startup_timeout.value,
            heartbeat_timeout_seconds=self._heartbeat_timeout.value,
        )


@contextlib.contextmanager
def exit_codes(
    *usage_errors: type[Exception],
    hints: Mapping[type[Exception], str] = types.MappingProxyType({}),
) -> Iterator[None]:
    """Ends the program, with one line, where the block raises.

    Code 2 where the command cannot run, 1 where it was stopped (Ctrl-C) or failed, or another
    process was lost or did not come. Alone, other errors pass. While the block prints nothing, a
    `Beat` does.

    Args:
      usage_errors: of commands that cannot run, besides `UserError`.
      hints: such errors too, each with the words that say which flag mends it; the first that fits
        is added to the message, which states the fact alone.
    """
    _quiet_libraries()
    _hear_interrupts()
    try:
        with _beat:
            yield
    except (UserError, *usage_errors, *hints) as error:
        hint = next((words for kind, words in hints.items() if isinstance(error, kind)), "")
        words = str(error)
        if isinstance(error, OSError) and error.filename is not None:
            words = f"{error.filename}: {reason(error)}"
        exit_with(2, f"{words}; {hint}" if hint else words)
    except (FailedError, FloatingPointError, hosts.NotTogetherError) as error:
        exit_with(1, str(error))
    except KeyboardInterrupt:
        exit_with(1, "stopped; to resume, run the same command again", wait=False)
    except Exception as error:
        if why := hosts.why_no_devices(error):
            exit_with(2, why)
        if not jax.distributed.is_initialized():
            raise
        if hosts.is_loss_of_a_process(error):
            message = f"another process was lost; start all again, to resume ({one_line(error)})"
            exit_with(1, message, wait=False)
        traceback.print_exc()
        exit_with(1, f"process {jax.process_index()} failed: {one_line(error)}")


def be_silent() -> None:
    """From now on, nothing is said while a command prints nothing: it waits for people."""
    _beat.end()


def _hear_interrupts() -> None:
    """Has Ctrl-C raise KeyboardInterrupt; once more, where a callback swallows it."""

    def hook(unraisable: Any) -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        # What Orbax and tensorstore drop of a failed save or restore, one line for each array.
        elif not (
            inspect.iscoroutine(unraisable.object)
            or str(unraisable.exc_value) == "Event loop is closed"
        ):
            sys.__unraisablehook__(unraisable)

    sys.unraisablehook = hook
    if signal.getsignal(signal.SIGINT) in (signal.SIG_DFL, signal.default_int_handler):
        signal.signal(signal.SIGINT, _interrupt)


def _interrupt(number: int, frame: types.FrameType | None) -> NoReturn:
    """Raises KeyboardInterrupt; while libraries are imported, which it breaks, ends the process."""
    while frame:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        frame = frame.f_back
    raise KeyboardInterrupt


class _LosableStream:
    """Standard output or error whose reader may go away: what is written then is lost.

    As after `| head`, or on a terminal that was closed. It is no reason to stop.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes, or not."""
        _beat.heard()
        with self._losing():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flushes, or not."""
        with self._losing():
            self._stream.flush()

    @contextlib.contextmanager
    def _losing(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


def _let_streams_be_lost() -> None:
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name) or open(os.devnull, "w")  # noqa: SIM115, it stays open
        setattr(sys, name, _LosableStream(stream))


def exit_with(code: int, message: str, *, wait: bool = True) -> NoReturn:
    """Ends this process, as `hosts.exit_process` does, with a line on stderr."""
    print(f"epsilon_vae: {printable(message)}", file=sys.stderr)
    if "jax" not in sys.modules:
        sys.exit(code)
    hosts.exit_process(code, wait=wait)


def check_overrides(argv: Sequence[str]) -> None:
    """Raises `ConfigError` for a `--config.KEY=VALUE` whose key or type is wrong."""
    for argument, following in zip(argv[1:], [*argv[2:], ""], strict=False):
        override = re.fullmatch(r"--?config\.([\w.]+)(?:=(.*))?", argument, re.DOTALL)
        if override and override[2] is None:  # the value follows; absl reads it
            check_key(override[1], following)
        elif override:
            check_override(override[1], override[2])


def read_flags(argv: Sequence[str]) -> list[str]:
    """absl's flags, parsed, for commands with a `--config`; what is left of the command line.

    Raises:
      ConfigError, UsageError, flags.Error: an override that is wrong, or another flag.
    """
    check_overrides(argv)
    try:
        return flags.FLAGS([_with_config_file(argument) for argument in argv])
    except (SyntaxError, ImportError, flags.IllegalFlagValueError) as error:
        if isinstance(error, flags.Error) and "Traceback" not in str(error):
            raise  # another flag; a config file's own error comes with its traceback
        raise UsageError(f"--config: cannot be loaded ({one_line(error)})") from error
    except flags.UnrecognizedFlagError as error:
        keys = [key for key in ANY if key.split(".")[-1] == error.flagname]
        if not keys or "config" not in flags.FLAGS:
            raise
        meant = " or ".join(f"--config.{key}" for key in keys)
        raise UsageError(f"--{error.flagname}: no such flag; did you mean {meant}?") from error
    except (AttributeError, KeyError) as error:  # ml_collections', of a key that others have
        key = str(error).strip("\"'")
        raise UsageError(
            f"--config.…{key}: this config has no such key; autoencoders and "
            "latent diffusion models have each some that the others have not (epsilon_vae/keys.py)"
        ) from error


def config_names() -> dict[str, pathlib.Path]:
    """The configs that come with the package, by name."""
    spec = importlib.util.find_spec("configs")
    folders = spec.submodule_search_locations if spec else None
    files = [path for folder in folders or () for path in pathlib.Path(folder).glob("*.py")]
    return {
        path.stem: path
        for path in sorted(files)
        if path.stem not in SHARED_CONFIGS and "get_config" in path.read_text()
    }


def _with_config_file(argument: str) -> str:
    """`--config=tiny` as the file that has this name; other arguments as they are.

    Raises:
      UsageError: there is neither such a config nor such a file.
    """
    match = re.fullmatch(r"(--?config=)([^:]+)(:.*)?", argument, re.DOTALL)
    if not match or os.path.exists(match[2]):
        return argument
    start, name, settings = match[1], match[2], match[3] or ""
    known = config_names()
    stem = re.sub(r"^configs/|\.py$", "", name)
    if stem in known and ("/" not in name or name.startswith("configs/")):
        return f"{start}{known[stem]}{settings}"
    near = difflib.get_close_matches(stem, known, cutoff=0.5)
    meant = f"did you mean {' or '.join(near)}? All are" if near else "there are"
    raise UsageError(
        f"--config={name}: no such file, and no such config; {meant} {', '.join(known)}"
    )


def check_config(config: flags.FlagHolder, example: str) -> None:
    """Sees that a command's `--config` is named, as `example` is, and locks it.

    Raises:
      UsageError, ValueError, OSError: it is not, or the file cannot be loaded.
    """
    if config.value is None:
        raise UsageError(f"--config is missing: name a config file, as --config={example}")
    try:
        config.value.lock()  # a config file that failed to load says so at its first use
    except Exception as error:  # whatever it raises
        raise UsageError(f"--config: cannot be loaded ({one_line(error)})") from error


def parse_flags(
    argv: Sequence[str], check: Callable[[], None], *, takes_arguments: bool = False
) -> list[str]:
    """Parses absl's flags; what is wrong with them ends the program with one line and code 2.

    Args:
      argv: the command line.
      check: of the flags' values; raises ValueError, as `UsageError`, or OSError.
      takes_arguments: whether other words than flags may follow.

    Returns:
      The program's name and the other words.
    """
    _let_streams_be_lost()
    _leave_absent_tpu()
    try:
        _check_no_flag_is_empty(argv)
        rest = read_flags(argv)
        check()
        if len(rest) > 1 and not takes_arguments:
            raise UsageError(f"{rest[1]!r} is not a flag; flags start with --")
    except (flags.Error, ValueError, OSError) as error:
        exit_with(2, one_line(error))
    except SystemExit:  # of --help, which absl ends with 1
        sys.exit(0)
    return rest


def _leave_absent_tpu() -> None:
    """Has JAX look for CPUs alone on a machine with neither a TPU nor a GPU.

    Where libtpu is installed, as for `epsilon_vae.compile`, JAX would start it, and it reports in a
    dozen lines that it finds no TPU.
    """
    accelerators = ("/dev/accel*", "/dev/vfio/*", "/dev/nvidia*", "/dev/dxg", "/dev/kfd")
    is_told = any(name == "JAX_PLATFORMS" or name.startswith("TPU_") for name in os.environ)
    if is_told or sys.platform != "linux" or any(map(glob.glob, accelerators)):
        return
    vendors = map(pathlib.Path, glob.glob("/sys/bus/pci/devices/*/vendor"))
    has_google = any(vendor.read_text().strip() == "0x1ae0" for vendor in vendors)
    if not has_google and importlib.util.find_spec("libtpu"):
        os.environ["JAX_PLATFORMS"] = "cpu"


def check_folder(flag: flags.FlagHolder) -> None:
    """Raises `UsageError` for a flag that names a folder of this machine which is not there."""
    path = flag.value
    if path is not None and "://" not in path and not os.path.isdir(path):
        raise UsageError(f"--{flag.name}={path}: no such folder")


def _check_no_flag_is_empty(argv: Sequence[str]) -> None:
    """Raises `UsageError` for `--flag=`, as a shell's variable that is not set leaves it."""
    for argument in argv[1:]:
        if re.fullmatch(r"--?\w+=", argument):
            raise UsageError(f"{argument} is empty; give it a value, or leave it out")


def _quiet_libraries() -> None:
    """Has warnings be a short line, and Orbax and asyncio say nothing.

    They raise an error too. Of one array that is missing, they log hundreds of lines, and Python
    prints as many when it drops the coroutines of the others.
    """
    logging.getLogger("absl").addFilter(_is_not_of_orbax)
    absl_logging.get_absl_handler().setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)


def _is_not_of_orbax(record: logging.LogRecord) -> bool:
    return "/orbax/" not in record.pathname


def one_line(error: Exception) -> str:
    """The message; of a config file's own error, which comes as a traceback, the last line."""
    message = str(error).strip()
    if "Traceback" in message:
        message = message.splitlines()[-1]
    return " ".join(message.split())
