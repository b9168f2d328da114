"""Weights of other projects into runs, and weights of runs into files.

`python -m epsilon_vae.convert --from=FILE --config=configs/sd_vae.py --workdir=DIR` makes a run of
safetensors or a file of torch: diffusers' AutoencoderKL and VQModel, latent-diffusion's and
taming-transformers' checkpoints, LlamaGen's, whole Stable Diffusion models, DiT's with a config of
latent diffusion models, or what this command wrote, which needs no --config. The layout is told
from names. DIR then has a checkpoint of step 0, from which all other commands start. `python -m
epsilon_vae.convert --workdir=DIR --to=FILE` writes a run's EMA weights as safetensors, its config
in the metadata; with --layout=diffusers, a folder for its from_pretrained. Exit codes: 0 done; 2
something named on the command line cannot be used.
"""

from collections.abc import Sequence

from absl import app, flags, logging
from ml_collections import config_flags

from epsilon_vae.command_line import UsageError, exit_codes, parse_flags
from epsilon_vae.conversion import OURS, NoConfigError, export_weights, import_weights

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "With --from: config of the network that FILE holds, as configs/sd_vae.py."
)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run, which --from makes.")
FROM = flags.DEFINE_string("from", None, "File of weights to make a run of.")
TO = flags.DEFINE_string("to", None, "File to write, or with --layout=diffusers a folder.")
STEP = flags.DEFINE_integer("checkpoint_step", None, "Checkpoint for --to; the newest by default.")
LAYOUT = flags.DEFINE_enum("layout", OURS, [OURS, "diffusers"], "With --to: how weights are named.")


def check_flags() -> None:
    """Raises `UsageError` for flags that are missing or do not fit each other."""
    if WORKDIR.value is None:
        raise UsageError("--workdir is missing: name the folder of a run")
    if (FROM.value is None) == (TO.value is None):
        raise UsageError("--from=FILE or --to=FILE: one of them says which way")
    if FROM.value is not None and (STEP.present or LAYOUT.present):
        name = STEP.name if STEP.present else LAYOUT.name
        raise UsageError(f"--{name}: is for --to; --from tells it from the file")
    if TO.value is not None and CONFIG.value is not None:
        raise UsageError("--config: is for --from; --to takes the run's own")
    if CONFIG.value is not None:
        CONFIG.value.lock()  # a config file that failed to load says so at its first use


def main(argv: Sequence[str]) -> None:
    """Imports or exports."""
    del argv
    logging.set_verbosity(logging.WARNING)
    with exit_codes(OSError, hints={NoConfigError: "name one, as --config=configs/sd_vae.py"}):
        if FROM.value is not None:
            title = import_weights(FROM.value, WORKDIR.value, CONFIG.value)
            print(f"{FROM.value} ({title}) -> {WORKDIR.value}, step 0")
        else:
            vae = export_weights(WORKDIR.value, TO.value, step=STEP.value, layout=LAYOUT.value)
            print(f"{WORKDIR.value}, step {vae.step} -> {TO.value} ({LAYOUT.value})")


if __name__ == "__main__":
    app.run(main, flags_parser=lambda argv: parse_flags(argv, check_flags))
