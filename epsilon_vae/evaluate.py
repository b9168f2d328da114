"""Measures reconstructions: `python -m epsilon_vae.evaluate --workdir=DIR --output=DIR`.

With `--compare A B …`, of several: runs' folders, folders of pictures that other tools made, and
`diffusers:PATH`. Writes results.json, results.md, per_image_PX.csv, plots and report.html. Stopped
or killed, it resumes when the same command is run again. `--samples=A --reference=B` measures
generated images instead, folders or .npz files as ADM's, in one pass that starts anew when it was
stopped, and writes results.json, results.md and report.html. On several processes, each runs the
command. Exit codes: 0 done; 1 stopped, or another process was lost; 2 the command cannot run.
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import app, flags, logging
from etils import epy

from epsilon_vae import command_line
from epsilon_vae.command_line import UsageError, exit_codes, exit_with, parse_flags
from epsilon_vae.data.decode import DataError
from epsilon_vae.data.image_set import ImageSet, is_array
from epsilon_vae.names import printable

with epy.lazy_imports():  # of what takes seconds, and is not needed for flags
    import jax

    from epsilon_vae.data import named
    from epsilon_vae.evaluation import evaluation, generated, protocols, reconstructors
    from epsilon_vae.parallel import hosts, mesh

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a training run.")
COMPARE = flags.DEFINE_bool(
    "compare", default=False, help="Evaluate all that the arguments name, side by side."
)
STEP = flags.DEFINE_integer("checkpoint_step", None, "Checkpoint to use; the newest by default.")
DATA = flags.DEFINE_string(
    "data",
    None,
    "Images: 'photos', a folder of them, array_record:DIR or tfds:NAME; by default the held-out "
    "ones of the run's config.",
)
SPLIT = flags.DEFINE_string("split", "val", "Split of photos, array_record: or tfds:.")
RESOLUTIONS = flags.DEFINE_list("resolutions", None, "Sizes of the crops; the run's by default.")
STEPS = flags.DEFINE_list("steps", ["1", "3"], "Network evaluations (NFE) of the decoder.")
PROTOCOL = flags.DEFINE_string(
    "protocol",
    None,
    "paper or local; with changes, as paper,crop=bicubic,num_images=5000. By default paper, or "
    "local where there are no weights of InceptionV3.",
)
SAMPLES = flags.DEFINE_string(
    "samples", None, "Generated images: a folder, an .npz or an .npy file."
)
REFERENCE = flags.DEFINE_string(
    "reference", None, "What --samples are measured against: photos, as --data, or such a file."
)
OUTPUT = flags.DEFINE_string("output", None, "Folder to write.")
SAVE_IMAGES = flags.DEFINE_bool(
    "save_images", default=False, help="Write all pictures as PNG files too."
)
HOSTS = command_line.HostFlags()


def check_flags() -> None:
    """Raises `UsageError` or `ProtocolError` for flags that are missing or do not fit."""
    if OUTPUT.value is None:
        raise UsageError("--output is missing: name a folder for results and report")
    if (SAMPLES.value is None) != (REFERENCE.value is None):
        raise UsageError("--samples and --reference: give both")
    measured = [COMPARE.value, WORKDIR.value is not None, SAMPLES.value is not None]
    if sum(measured) > 1:
        raise UsageError("--workdir, --compare and --samples: one of them at a time")
    if not any(measured):
        raise UsageError("--workdir is missing: name the folder of a run, or --compare A B …")
    for flag in (RESOLUTIONS, STEPS):
        if flag.value is not None:
            _check_numbers(flag.name, flag.value)
    if WORKDIR.value is not None:
        command_line.check_folder(WORKDIR)
    asked = protocols.parse(PROTOCOL.value or "paper")
    if SAMPLES.value is not None:
        _check_flags_of_samples(asked)


def _check_array(flag: flags.FlagHolder) -> None:
    """Raises `UsageError` for a file of arrays that has no images."""
    if is_array(flag.value):
        try:
            ImageSet(flag.value)
        except DataError as error:
            raise UsageError(f"--{flag.name}={error}") from error


def _check_numbers(name: str, values: Sequence[str]) -> None:
    text = f"--{name}={','.join(values)}"
    if not all(x.isdecimal() and 0 < int(x) < 2**16 for x in values):
        raise UsageError(f"{text}: expected whole numbers, as 1,3")
    if len({int(x) for x in values}) < len(values):
        raise UsageError(f"{text}: one of them twice")


def _check_flags_of_samples(asked: protocols.Protocol) -> None:
    """Raises `UsageError` for what says nothing about images that are measured as they are."""
    given = [f.name for f in (STEP, DATA, SPLIT, RESOLUTIONS, STEPS, SAVE_IMAGES) if f.present]
    if given:
        raise UsageError(f"--{given[0]}: not with --samples, which are measured as they are")
    for flag in (SAMPLES, REFERENCE):
        _check_array(flag)
    changes = [x for x in asked.name.split(",")[1:] if x.partition("=")[0] not in generated.KEYS]
    if changes:
        raise UsageError(
            f"--protocol={asked.name}: {changes[0]} says nothing about --samples, which are "
            "measured as they are"
        )


def main(argv: Sequence[str]) -> None:
    """Joins the other processes, if any, and measures."""
    logging.set_verbosity(logging.WARNING)
    with exit_codes(OSError):
        paths = _paths(argv[1:])
        HOSTS.start()
        asked = _protocol()
        devices = mesh.make_mesh()
        try:
            if SAMPLES.value is not None:
                generated.evaluate_samples(
                    SAMPLES.value,
                    REFERENCE.value,
                    protocol=asked,
                    output=OUTPUT.value,
                    mesh=devices,
                )
            else:
                _evaluate_reconstructors(paths, asked, devices)
            if hosts.is_first():
                print(printable(f"{OUTPUT.value}/report.html"))
        except KeyboardInterrupt:
            again = "start anew" if SAMPLES.value is not None else "resume"
            exit_with(1, f"stopped; to {again}, run the same command again", wait=False)


def _protocol() -> protocols.Protocol:
    """The protocol that is asked for; without one, one whose weights are here."""
    asked = protocols.parse(PROTOCOL.value or "paper")
    try:
        protocols.check_features(asked)
    except protocols.ProtocolError as error:
        if PROTOCOL.value is not None:
            raise
        if hosts.is_first():
            print(f"{error}. Measuring by --protocol=local.", flush=True)
        asked = protocols.parse("local")
    return asked


def _paths(arguments: Sequence[str]) -> Sequence[str]:
    """Returns what is evaluated, unless it is --samples."""
    if COMPARE.value and not arguments:
        raise UsageError("--compare: name runs' folders, folders of pictures or diffusers:PATH")
    if arguments and not COMPARE.value:
        raise UsageError(f"{arguments[0]!r} is not a flag; to evaluate several, --compare A B …")
    return arguments or [WORKDIR.value]


def _evaluate_reconstructors(
    paths: Sequence[str], asked: protocols.Protocol, devices: jax.sharding.Mesh
) -> None:
    data = named.open_data(DATA.value, SPLIT.value) if DATA.value else None
    opened = reconstructors.open_reconstructors(paths, STEP.value, protocol=asked, mesh=devices)
    runs = [x for x in opened if isinstance(x, reconstructors.Run)]
    config = runs[0].autoencoder.config if runs else None
    if config is None and not (DATA.value and RESOLUTIONS.value):
        raise UsageError("--data and --resolutions are missing: no run says which")
    evaluation.evaluate(
        opened,
        data or evaluation.held_out_data(config),
        resolutions=[int(x) for x in RESOLUTIONS.value or [config.data.resolution]],
        steps=[int(x) for x in STEPS.value],
        protocol=asked,
        output=OUTPUT.value,
        mesh=devices,
        save_images=SAVE_IMAGES.value,
    )


if __name__ == "__main__":
    app.run(main, flags_parser=lambda argv: parse_flags(argv, check_flags, takes_arguments=True))
