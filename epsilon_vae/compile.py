"""Compiles for a TPU without one: `python -m epsilon_vae.compile --config=FILE --topology=v5e:4x4`.

--config.KEY=VALUE sets a key of the config; docs/reference/config.md lists them. Says whether the
config fits and how fast it could be at most. Exit codes: 0 it fits; 1 it does not;
2 the command or its config cannot run.
"""

from __future__ import annotations

import json
import pathlib
import sys
import traceback
from collections.abc import Callable, Sequence

import ml_collections
from absl import app, flags, logging
from etils import epy
from ml_collections import config_flags

from epsilon_vae import command_line
from epsilon_vae.command_line import UsageError, exit_with, one_line, parse_flags
from epsilon_vae.config import ConfigError, check_kind, check_values

with epy.lazy_imports():  # of what takes seconds, and is not needed for flags
    from epsilon_vae.aot import advice, chips, measure, program, report

EXAMPLES = "v5e:4x4, v5p:2x2x1, v6e:4x8"

CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, as configs/sd_m.py.")
TOPOLOGY = flags.DEFINE_string("topology", None, f"Kind and shape of a slice: {EXAMPLES}.")
NUM_SLICES = flags.DEFINE_integer("num_slices", 1, "So many such slices.", lower_bound=1)
WHAT = flags.DEFINE_enum("what", "step", ["step", "reconstruct"], "What to compile.")
BATCH = flags.DEFINE_integer(
    "batch", None, "Images of all chips; config.batch_size by default, or 1 to reconstruct.", 1
)
RESOLUTION = flags.DEFINE_string(
    "resolution", None, "H or HxW of what is reconstructed; config.data.resolution by default."
)
TRY = flags.DEFINE_bool(
    "try", default=False, help="If it does not fit, compile what is suggested in turn."
)
JSON = flags.DEFINE_string("json", None, "File to write the same numbers to.")


def check_flags() -> None:
    """Raises `UsageError` for flags that are missing or do not fit."""
    command_line.check_config(CONFIG, "configs/sd_m.py")
    if TOPOLOGY.value is None:
        raise UsageError(f"--topology is missing: name a slice, as {EXAMPLES}")
    if RESOLUTION.value and WHAT.value == "step":
        raise UsageError(
            f"--resolution={RESOLUTION.value}: is of --what=reconstruct; for the step set "
            "--config.data.resolution"
        )
    if JSON.value and pathlib.Path(JSON.value).is_dir():
        raise UsageError(f"--json={JSON.value}: is a folder; name a file")
    if JSON.value and not pathlib.Path(JSON.value).absolute().parent.is_dir():
        raise UsageError(f"--json={JSON.value}: no such folder")


def main(argv: Sequence[str]) -> None:
    """Compiles and prints; the exit code says whether it fits."""
    del argv
    logging.set_verbosity(logging.WARNING)
    chips.compile_without_tpu()
    try:
        topology = chips.open_topology(TOPOLOGY.value, NUM_SLICES.value)
        config, build, suggest = _reconstruction() if WHAT.value == "reconstruct" else _step()
        compiled = build(config, topology)
        _announce(compiled, topology)
        result = measure.measure(compiled, topology)
        print(report.table(result), flush=True)
        if not result["fits"]:
            suggestions = suggest(config, topology, result["hbm_bytes_a_chip"])
            result["suggestions"] = _advise(suggestions, result["hbm_bytes_a_chip"])
            if TRY.value:
                result["tried"] = list(_try(suggestions, config, topology, build))
    except chips.TopologyError as error:
        exit_with(2, f"--topology={error}")
    except (UsageError, ConfigError) as error:
        exit_with(2, str(error))
    except Exception as error:  # Python's own exit code would be 1: does not fit
        traceback.print_exc()
        exit_with(2, f"not compiled, for another reason than memory: {one_line(error)[:200]}")
    if JSON.value:
        _write_json(result)
    sys.exit(0 if result["fits"] else 1)


def _write_json(result: dict) -> None:
    try:
        pathlib.Path(JSON.value).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        exit_with(2, f"--json={JSON.value}: cannot be written ({error.strerror})")


def _step() -> tuple[ml_collections.ConfigDict, Callable, Callable]:
    config = CONFIG.value
    config.batch_size = BATCH.value or config.batch_size
    return config, program.train_step, advice.suggest_for_step


def _reconstruction() -> tuple[ml_collections.ConfigDict, Callable, Callable]:
    check_kind(CONFIG.value, "--what=reconstruct: --config", latent_diffusion=False)
    text = RESOLUTION.value or str(CONFIG.value.data.resolution)
    sizes = text.split("x")
    if len(sizes) > 2 or not all(size.isdecimal() and int(size) for size in sizes):
        raise UsageError(f"--resolution={text}: expected H or HxW, as 1024 or 768x1024")
    height, width = int(sizes[0]), int(sizes[-1])
    check_values(CONFIG.value)
    config = program.prepare_reconstruction(CONFIG.value, BATCH.value or 1, height)

    def build(config: ml_collections.ConfigDict, topology: chips.Topology) -> program.Program:
        return program.reconstruction(config, topology, width)

    return config, build, advice.suggest_for_reconstruction


def _advise(suggestions: list[advice.Suggestion], memory: dict) -> list[dict]:
    """Prints what would help, and returns it for the JSON."""
    print("What would help (estimates; --try compiles them):")
    for suggestion in suggestions:
        print(suggestion.line(memory["usable"]))
    print(advice.larger_topology(memory), flush=True)
    return [{"settings": x.settings, "hbm_bytes_a_chip": x.hbm_bytes} for x in suggestions]


def _try(suggestions, config, topology, build):
    """Compiles each suggestion until one fits; yields what it measured."""
    for suggestion in suggestions:
        print(f"Trying {suggestion.flags}", flush=True)
        result = measure.measure(build(suggestion.applied(config), topology), topology)
        print(report.verdict(result), flush=True)
        yield {"settings": suggestion.settings} | result
        if result["fits"]:
            print(report.table(result), flush=True)
            return


def _announce(compiled: program.Program, topology: chips.Topology) -> None:
    mesh = ", ".join(f"{axis} {size}" for axis, size in compiled.mesh.shape.items())
    slices = f"{topology.num_slices} slices of " if topology.num_slices > 1 else ""
    print(
        f"Compiling the {compiled.what}, for {slices}{topology.name} ({len(topology.devices)} "
        f"chips: {mesh}). Large configs take ten minutes.",
        flush=True,
    )


if __name__ == "__main__":
    app.run(main, flags_parser=lambda argv: parse_flags(argv, check_flags))
