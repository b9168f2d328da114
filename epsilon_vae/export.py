"""Exports a model: `python -m epsilon_vae.export --workdir=RUN --what=encode,decode --output=DIR`.

Writes encoder and decoder (EMA) as programs that run without this package, of batches of any size:
with --format=jax for `jax.export.deserialize`, beside the weights; with --format=onnx for
onnxruntime and others. programs.json says what each takes and gives. Exit codes: 0 done; 1 failed;
2 the command cannot run.
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import app, flags, logging
from etils import epy

from epsilon_vae.command_line import UsageError, check_folder, exit_codes, parse_flags
from epsilon_vae.names import printable

with epy.lazy_imports():  # of what takes seconds, and is not needed for flags
    from epsilon_vae.inference import exporting, restoring

PARTS = ("encode", "decode")
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a training run.")
STEP = flags.DEFINE_integer("checkpoint_step", None, "Checkpoint to use; the newest by default.")
OUTPUT = flags.DEFINE_string("output", None, "Folder to write.")
WHAT = flags.DEFINE_list("what", [*PARTS], "encode, decode or both.")
FORMAT = flags.DEFINE_enum("format", "jax", ["jax", "onnx"], "Of the programs.")
ON = flags.DEFINE_list(
    "platforms", ["cpu", "cuda", "tpu"], "With --format=jax: of cpu, cuda, rocm and tpu."
)
STEPS = flags.DEFINE_list("steps", ["1", "3"], "Network evaluations (NFE); a program for each.")
RESOLUTION = flags.DEFINE_integer(
    "resolution", None, "Size of the images; the run's by default.", lower_bound=1
)


def check_flags() -> None:
    """Raises `UsageError` or `ExportError` for flags that are missing or do not fit."""
    if WORKDIR.value is None:
        raise UsageError("--workdir is missing: name the folder of a run")
    if OUTPUT.value is None:
        raise UsageError("--output is missing: name a folder for the programs")
    for flag, known in ((WHAT, PARTS), (ON, PLATFORMS)):
        unknown = [word for word in flag.value if word not in known]
        if unknown or not flag.value:
            some = ",".join(flag.value)
            raise UsageError(f"--{flag.name}={some}: expected some of {', '.join(known)}")
    if any(not steps.isdecimal() or int(steps) < 1 for steps in STEPS.value) or not STEPS.value:
        raise UsageError(f"--steps={','.join(STEPS.value)}: expected numbers of at least 1")
    if ON.present and FORMAT.value != "jax":
        raise UsageError("--platforms: is for --format=jax; ONNX runs on what its runtime has")
    check_folder(WORKDIR)
    exporting.check(OUTPUT.value, FORMAT.value)


def main(argv: Sequence[str]) -> None:
    """Restores and exports."""
    del argv
    logging.set_verbosity(logging.ERROR)
    with exit_codes(OSError):
        vae = restoring.restore(WORKDIR.value, STEP.value)
        files = exporting.export_programs(
            vae,
            OUTPUT.value,
            parts=WHAT.value,
            steps=[int(steps) for steps in STEPS.value],
            resolution=RESOLUTION.value or vae.config.data.resolution,
            file_format=FORMAT.value,
            platforms=ON.value,
        )
        print(
            f"{printable(WORKDIR.value)}, step {vae.step} -> {printable(OUTPUT.value)}: "
            f"{', '.join(files)}"
        )


if __name__ == "__main__":
    app.run(main, flags_parser=lambda argv: parse_flags(argv, check_flags))
