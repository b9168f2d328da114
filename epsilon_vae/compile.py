"""Compiles for a TPU without one: `python -m epsilon_vae.compile --config=FILE --topology=v5e:4x4`.

Says whether the config fits and how fast it could be at most. Exit codes: 0 it fits; 1 it does not;
2 the command or its config cannot run.
"""

import json
import pathlib
import sys
from collections.abc import Sequence

from absl import app, flags, logging
from ml_collections import config_flags

from epsilon_vae.command_line import UsageError, check_overrides, one_line
from epsilon_vae.config import ConfigError, check

CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, as configs/sd_m.py.")
TOPOLOGY = flags.DEFINE_string("topology", None, "Kind and shape of a slice, as v5e:4x4.")
NUM_SLICES = flags.DEFINE_integer("num_slices", 1, "So many such slices.", lower_bound=1)
WHAT = flags.DEFINE_enum("what", "step", ["step", "reconstruct"], "What to compile.")
BATCH = flags.DEFINE_integer(
    "batch", None, "Images of all chips; config.batch_size by default, or 1 to reconstruct.", 1
)
RESOLUTION = flags.DEFINE_string(
    "resolution", None, "H or HxW of what is reconstructed; config.data.resolution by default."
)
JSON = flags.DEFINE_string("json", None, "File to write the same numbers to.")


def parse_flags(argv: Sequence[str]) -> list[str]:
    """absl's flags; what is wrong with them ends the program with one line and code 2."""
    try:
        check_overrides(argv)
        rest = flags.FLAGS(argv)
        if CONFIG.value is None:
            raise UsageError("--config is missing: name a config file, as --config=configs/sd_m.py")
        if TOPOLOGY.value is None:
            raise UsageError("--topology is missing: name a slice, as --topology=v5e:4x4")
        CONFIG.value.lock()
        if len(rest) > 1:
            raise UsageError(f"{rest[1]!r} is not a flag; flags start with --")
        if RESOLUTION.value and WHAT.value == "step":
            raise UsageError("--resolution is of --what=reconstruct; set config.data.resolution")
    except (flags.Error, ValueError, OSError) as error:
        _exit(2, one_line(error))
    return rest


def main(argv: Sequence[str]) -> None:
    """Compiles, prints, and ends with the exit code that says whether it fits."""
    del argv
    logging.set_verbosity(logging.WARNING)
    from epsilon_vae.aot import chips

    chips.compile_without_tpu()
    try:
        result = _measure(CONFIG.value)
    except (UsageError, ConfigError, chips.TopologyError) as error:
        _exit(2, str(error))
    from epsilon_vae.aot import report

    print(report.table(result))
    if JSON.value:
        pathlib.Path(JSON.value).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    sys.exit(0 if result["fits"] else 1)


def _measure(config) -> dict:
    from epsilon_vae import builders
    from epsilon_vae.aot import chips, program, report
    from epsilon_vae.parallel.mesh import make_mesh
    from epsilon_vae.training.flops import parameter_counts

    topology = chips.open_topology(TOPOLOGY.value, NUM_SLICES.value)
    reconstruct = WHAT.value == "reconstruct"
    if reconstruct:
        height, width = _resolution(config)
        config.data.resolution = height
        config.optim.accumulate = 1
    config.batch_size = BATCH.value or (1 if reconstruct else config.batch_size)
    check(config, len(topology.devices))
    mesh = make_mesh(**config.mesh, devices=topology.devices)
    counts = parameter_counts(builders.objective(config), config.data.resolution)
    if reconstruct:
        counts.pop("discriminator")
        compiled = program.reconstruction(config, mesh, config.batch_size, height, width)
    else:
        compiled = program.train_step(config, mesh)
    print(
        f"Compiling the {compiled.what}, for {NUM_SLICES.value} x {topology.name} "
        f"({len(topology.devices)} chips, mesh {dict(mesh.shape)}). Takes minutes.",
        flush=True,
    )
    return {"parameters": counts} | report.measure(compiled, topology, mesh)


def _resolution(config) -> tuple[int, int]:
    text = RESOLUTION.value or str(config.data.resolution)
    try:
        sizes = [int(size) for size in text.split("x")]
    except ValueError:
        sizes = []
    if not 1 <= len(sizes) <= 2 or min(sizes) < 1:
        raise UsageError(f"--resolution={text}: expected H or HxW, as 1024 or 768x1024")
    return sizes[0], sizes[-1]


def _exit(code: int, message: str) -> None:
    print(f"epsilon_vae: {message}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
