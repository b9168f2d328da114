"""Weights of other projects into runs, and weights of runs into files.

`python -m epsilon_vae.convert --from=FILE --workdir=DIR` makes a run of safetensors or a file of
torch, of a folder that has one, or of OWNER/NAME on the Hugging Face Hub: diffusers' AutoencoderKL
and VQModel, latent-diffusion's and taming-transformers' checkpoints, LlamaGen's, whole Stable
Diffusion models, or what this command wrote. Layout and network are told from the weights, factors
of latents from config.json; DiT's weights need the --config of a latent diffusion model. DIR then
has a checkpoint of step 0, from which all other commands start. `python -m epsilon_vae.convert
--workdir=DIR --to=FILE` writes a run's EMA weights as safetensors, its config in the metadata; with
--layout=diffusers, a folder for its from_pretrained. --config.KEY=VALUE sets a key of the config;
docs/reference/config.md lists them. Exit codes: 0 done; 2 something named on the
command line cannot be used.
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import app, flags, logging
from etils import epy
from ml_collections import config_flags

from epsilon_vae import command_line
from epsilon_vae.command_line import UsageError, exit_codes, parse_flags
from epsilon_vae.config import is_latent_diffusion

with epy.lazy_imports():  # of what takes seconds, and is not needed for flags
    from epsilon_vae import conversion
    from epsilon_vae.inference import restoring

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "With --from: config of the run; by default what FILE is, as far as it says."
)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run, which --from makes.")
FROM = flags.DEFINE_string(
    "from",
    None,
    "Weights to make a run of: a file, a folder, OWNER/NAME on the Hub, or a model that comes with "
    "the package, as small.",
)
TO = flags.DEFINE_string("to", None, "File to write, or with --layout=diffusers a folder.")
STEP = flags.DEFINE_integer("checkpoint_step", None, "Checkpoint for --to; the newest by default.")
LAYOUT = flags.DEFINE_enum(
    "layout", "epsilon_vae", ["epsilon_vae", "diffusers"], "With --to: how weights are named."
)


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
        command_line.check_config(CONFIG, "configs/sd_vae.py")


def main(argv: Sequence[str]) -> None:
    """Imports or exports."""
    del argv
    logging.set_verbosity(logging.WARNING)
    with exit_codes(
        OSError, hints={conversion.NoConfigError: "name one, as --config=configs/sd_vae.py"}
    ):
        if FROM.value is not None:
            path = FROM.value
            if path in restoring.list_models():
                path = str(restoring.RELEASED / path)
            imported = conversion.import_weights(path, WORKDIR.value, CONFIG.value)
            print(f"{FROM.value} ({imported.title}) -> {WORKDIR.value}, step 0")
            if not is_latent_diffusion(imported.config):
                print(_network(imported))
            if imported.left_out:
                print(f"left out: {imported.left_out}")
        else:
            vae = conversion.export_weights(
                WORKDIR.value, TO.value, step=STEP.value, layout=LAYOUT.value
            )
            print(f"{WORKDIR.value}, step {vae.step} -> {TO.value} ({LAYOUT.value})")


def _network(imported: conversion.Imported) -> str:
    """An autoencoder in words, and how its latents are normalized."""
    model = imported.config.model
    encoder, bottleneck = model.encoder, model.bottleneck
    scale, shift = bottleneck.scaling_factor, bottleneck.shift_factor
    factors = "as the file says" if imported.is_measured else "none yet, encode measures it"
    if scale:
        factors = f"scaling_factor {scale:g}, shift_factor {shift:g}"
    return (
        f"network: encoder {encoder.name}, f {encoder.f}, n_z {encoder.n_z}, bottleneck "
        f"{bottleneck.name}, decoder {model.decoder.name}; normalization of latents: {factors}"
    )


if __name__ == "__main__":
    app.run(main, flags_parser=lambda argv: parse_flags(argv, check_flags))
