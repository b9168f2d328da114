"""Trains the variants of a study, and evaluates them side by side.

`python -m epsilon_vae.study --study=ladder --workdir=DIR --budget=MINUTES`, or with --num_steps.
Studies are `configs/studies.py`'s. In DIR: `runs/VARIANT-seedN`, each a run of `epsilon_vae.main`;
`evaluation/`, as `epsilon_vae.evaluate --compare` writes it; `study.md`, the table beside the
paper's, and `study.png`. Stopped or killed, it resumes when the same command is run again. On
several processes, each runs the command. Exit codes: those of `epsilon_vae.main`.
"""

from __future__ import annotations

import csv
import importlib
import json
import pathlib
import signal
import sys
import types
from collections.abc import Sequence

import ml_collections
import numpy as np
from absl import app, flags, logging
from etils import epy

from epsilon_vae import command_line
from epsilon_vae.command_line import PREEMPTED, UsageError, exit_codes, parse_flags
from epsilon_vae.config import check

with epy.lazy_imports():  # of what takes seconds, and is not needed for flags
    import jax

    from epsilon_vae import resumable, step_folders
    from epsilon_vae.evaluation import evaluation, protocols, reconstructors, study_results
    from epsilon_vae.models import build
    from epsilon_vae.parallel import hosts, mesh
    from epsilon_vae.run import loop

# What a budget comes to is rounded down to so many steps, and is at least that.
STEPS_UNIT = 100
# The part of a budget that is for training; the rest is for compiling and evaluating.
TRAINING_SHARE = 0.7

STUDY = flags.DEFINE_string("study", None, "Which, of configs/studies.py.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the study.")
SCALE = flags.DEFINE_enum(
    "scale", "small", ["small", "paper"], "A laptop's networks, or the paper's."
)
DATA = flags.DEFINE_string("data", None, "Folder of train and val; the embedded photos without.")
RESOLUTION = flags.DEFINE_integer("resolution", None, "In pixels.", lower_bound=32)
SEEDS = flags.DEFINE_integer("seeds", 2, "Runs of each variant.", lower_bound=1)
NUM_STEPS = flags.DEFINE_integer("num_steps", None, "Steps of each run.", lower_bound=1)
BUDGET = flags.DEFINE_float(
    "budget",
    None,
    "Minutes, from which the number of steps is told; compiling and evaluating may take more than "
    "the part that is left for them.",
    lower_bound=1,
)
PROTOCOL = flags.DEFINE_string("protocol", "local", "Protocol of the evaluation, as evaluate's.")
HOSTS = command_line.HostFlags()


def check_flags() -> None:
    """Raises `UsageError` for flags that are missing or exclude each other."""
    if WORKDIR.value is None:
        raise UsageError("--workdir is missing: name a folder, as --workdir=runs/ladder")
    if (NUM_STEPS.value is None) == (BUDGET.value is None):
        raise UsageError("--num_steps or --budget: one of them says how long to train")


def main(argv: Sequence[str]) -> None:
    """Joins the other processes, if any, trains what is missing, and evaluates."""
    del argv
    logging.set_verbosity(logging.WARNING)
    with exit_codes(OSError, hints={resumable.OtherPlanError: "take another --workdir"}):
        HOSTS.start()
        asked = protocols.parse(PROTOCOL.value)
        protocols.check_features(asked)
        variants = open_study(STUDY.value, SCALE.value)
        for variant in variants.values():
            _choose_data(variant.config)
            check(variant.config, jax.device_count())
            build.build_networks(variant.config)
        folder = pathlib.Path(WORKDIR.value)
        num_steps = _num_steps(folder, variants)
        for seed in range(SEEDS.value):
            for name in dict.fromkeys(_studies().trained_as(variants).values()):
                _train(variants[name].config, run_folder(folder, name, seed), seed, num_steps)
        _evaluate(folder, variants, asked)


def _studies() -> types.ModuleType:
    """`configs.studies`, found where the command runs, as configs are."""
    return importlib.import_module("configs.studies")


def open_study(name: str | None, scale: str) -> dict:
    """The variants of a study, by name.

    Raises:
      UsageError: there is no such study.
    """
    studies = _studies()
    if name not in studies.STUDIES:
        raise UsageError(f"--study={name}: there are {', '.join(studies.STUDIES)}")
    return studies.STUDIES[name](scale)


def run_folder(folder: pathlib.Path, name: str, seed: int) -> pathlib.Path:
    """Workdir of a variant's run."""
    return folder / "runs" / f"{name}-seed{seed}"


def _choose_data(config: ml_collections.ConfigDict) -> None:
    if DATA.value is not None:
        config.data.source, config.data.path = "folder", DATA.value
    if RESOLUTION.value is not None:
        config.data.resolution = RESOLUTION.value
    config.flow.nfe = min(config.flow.nfe, 10)  # while it trains; variants say what is evaluated


def _num_steps(folder: pathlib.Path, variants: dict) -> int:
    """Steps of every run: as asked for, or as the first call of the study found for its budget.

    Raises:
      OtherPlanError: the folder holds a study that was started with other flags.
    """
    asked = {
        "study": STUDY.value,
        "scale": SCALE.value,
        "data": DATA.value,
        "resolution": RESOLUTION.value,
        "seeds": SEEDS.value,
        "num_steps": NUM_STEPS.value,
        "budget": BUDGET.value,
    }
    job = resumable.ResumableFolder(folder, "study.json", plan=asked, within="asked")
    job.start({"asked": asked, "num_steps": NUM_STEPS.value})
    num_steps = hosts.broadcast_from_first(job.read()["num_steps"] or 0)
    if not num_steps:
        num_steps = _steps_within_budget(folder, variants)
        if hosts.is_first():
            job.save({"asked": asked, "num_steps": num_steps})
    return num_steps


def _steps_within_budget(folder: pathlib.Path, variants: dict) -> int:
    """Equal steps for every run, by the time of each variant's first steps, which are kept.

    They are as many as the first row of its metrics.csv takes.
    """
    seconds = 0.0
    for name in dict.fromkeys(_studies().trained_as(variants).values()):  # alike on all processes
        variant, workdir = variants[name], run_folder(folder, name, 0)
        _train(variant.config, workdir, 0, variant.config.log.every_steps)
        with (workdir / "metrics.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        times = [float(row["step_seconds"]) for row in rows if row["step_seconds"]]
        seconds += float(np.median(times)) * SEEDS.value
    steps = int(60 * TRAINING_SHARE * BUDGET.value / seconds)
    return hosts.broadcast_from_first(max(steps // STEPS_UNIT, 1) * STEPS_UNIT)


def _train(
    config: ml_collections.ConfigDict, workdir: pathlib.Path, seed: int, num_steps: int
) -> None:
    """Trains one run to `num_steps`, unless it is there; a signal to stop ends the program."""
    if _is_trained(workdir, num_steps):
        return
    config = config.copy_and_resolve_references()
    config.seed, config.num_steps = seed, num_steps
    config.lock()
    if hosts.is_first():
        print(f"\n{workdir.name}, {num_steps} steps", flush=True)
    stopped_by = loop.train(config, str(workdir))
    if stopped_by:
        if hosts.is_first():
            print("Stopped and saved. To resume, run the same command again.")
        sys.exit(PREEMPTED if stopped_by == signal.SIGTERM else 0)


def _is_trained(workdir: pathlib.Path, num_steps: int) -> bool:
    return (step_folders.newest_step(str(workdir)) or 0) >= num_steps


def _evaluate(folder: pathlib.Path, variants: dict, asked: protocols.Protocol) -> None:
    """Writes `evaluation/`, and from its results the study's own table and plot."""
    devices = mesh.make_mesh()
    runs, nfes, trained = [], set(), _studies().trained_as(variants)
    for seed in range(SEEDS.value):
        for name, variant in variants.items():
            workdir = str(run_folder(folder, trained[name], seed))
            decoding = f"{name}-seed{seed}", variant.config.flow.spacing, variant.nfes
            runs.append(
                reconstructors.Run(
                    workdir,
                    None,
                    protocol=asked,
                    mesh=devices,
                    decoding=reconstructors.Decoding(*decoding),
                )
            )
            nfes |= {*variant.nfes}
    config = runs[0].autoencoder.config
    data, output = evaluation.held_out_data(config), folder / "evaluation"
    evaluation.evaluate(
        runs,
        data,
        resolutions=[config.data.resolution],
        steps=sorted(nfes),
        protocol=asked,
        output=str(output),
        mesh=devices,
    )
    if hosts.is_first():
        rows = json.loads((output / "results.json").read_text())["rows"]
        paper = {name: variant.paper_rfid for name, variant in variants.items()}
        study_results.write(folder, rows, paper)
        print(f"{folder}/study.md")


if __name__ == "__main__":
    app.run(main, flags_parser=lambda argv: parse_flags(argv, check_flags))
