"""Makes a data set: `python -m epsilon_vae.data.prepare IN… --output=DIR --split=train`.

IN is a folder of images; tars, as ImageNet's or WebDataset's shards; parquet files, as data sets of
the Hugging Face Hub have them; a folder of tars or parquet files; or hf://datasets/OWNER/NAME.
Writes shards of ArrayRecord, and prints the flags that train on them. Run the same command again
to resume. Exit codes: 0 done; 1 stopped by Ctrl-C; 2 something named on the command line cannot be
used.
"""

from __future__ import annotations

import pathlib
import shlex
from collections.abc import Sequence

from absl import app, flags, logging
from etils import epy

from epsilon_vae.command_line import UsageError, exit_codes, parse_flags
from epsilon_vae.data.archives import find_images
from epsilon_vae.data.decode import DEFAULT, ImageDecoding
from epsilon_vae.data.devkit import label, read_devkit
from epsilon_vae.data.images import ChoiceError, ClassKeyError
from epsilon_vae.data.splits import SplitError
from epsilon_vae.names import printable

with epy.lazy_imports():  # of what takes seconds, and is not needed for flags
    from epsilon_vae import resumable
    from epsilon_vae.data import shards

OUTPUT = flags.DEFINE_string("output", None, "Folder for the shards of both splits.")
SPLIT = flags.DEFINE_enum("split", None, ["train", "val"], "Which one IN is.")
IMAGE_KEY = flags.DEFINE_string(
    "image_key",
    "",
    "Of several images in a row or sample: the column, or what follows the name's first dot, as "
    "jpg.",
)
CLASS_KEY = flags.DEFINE_string(
    "class_key",
    "",
    "Where the class is: a column of parquet, or a key of WebDataset's .json; else it is label, or "
    "in .cls.",
)
DEVKIT = flags.DEFINE_string("devkit", None, "ILSVRC2012_devkit_t12.tar.gz, for labels of val.")
ON_BAD_RECORD = flags.DEFINE_enum(
    "on_bad_record",
    "raise",
    ["raise", "skip"],
    "Stop at an image that cannot be read, or leave it out.",
)
RECORDS_PER_SHARD = flags.DEFINE_integer(
    "records_per_shard", 4096, "Images a shard; 4096 of ImageNet's are 440 MB.", lower_bound=1
)
MAX_PIXELS = flags.DEFINE_integer(
    "max_pixels", DEFAULT.max_pixels, "Of the largest image, as config.data.max_pixels.", 1
)


def check_flags() -> None:
    """Raises `UsageError` for flags that are missing or do not fit."""
    if OUTPUT.value is None:
        raise UsageError("--output is missing: name a folder for the shards")
    if SPLIT.value is None:
        raise UsageError("--split is missing: train or val, which one IN is")
    if "://" in OUTPUT.value:
        raise UsageError(
            f"--output={OUTPUT.value}: not a folder of this machine; name one, and then gcloud "
            "storage cp -r it"
        )


def main(argv: Sequence[str]) -> None:
    """Looks for images, writes what is missing, and says how to use it."""
    logging.set_verbosity(logging.WARNING)
    anew = f"name another --output, or remove {SPLIT.value}*.json there to write it anew"
    hints = {
        resumable.OtherPlanError: anew,
        shards.BadImageError: "replace it, or set --on_bad_record=skip",
        ChoiceError: "name one with --image_key",
        ClassKeyError: f"--class_key={CLASS_KEY.value} must name one of these",
        SplitError: f"name those files that are --split={SPLIT.value}",
    }
    with exit_codes(OSError, hints=hints):
        if len(argv) < 2:
            raise UsageError("name a folder, tars or parquet files")
        folder = pathlib.Path(OUTPUT.value)
        is_new = not folder.exists()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = f"cannot be made ({error.strerror}); name a folder of yours"
            raise UsageError(f"--output={folder}: {reason}") from error
        try:
            devkit = read_devkit(DEVKIT.value) if DEVKIT.value else None
            images = find_images(
                *argv[1:], split=SPLIT.value, image_key=IMAGE_KEY.value, class_key=CLASS_KEY.value
            )
        except BaseException:
            if is_new:
                folder.rmdir()
            raise
        if devkit:
            images = label(images, devkit)
        unlabelled = images.labels.count(None) if images.classes else 0
        without = f", {unlabelled} images without one" if unlabelled else ""
        words = f"{images.path}: {len(images)} images, {_in_words(images.classes)}{without}"
        print(printable(words), flush=True)
        writer = shards.ShardWriter(
            folder,
            SPLIT.value,
            images=images,
            records_per_shard=RECORDS_PER_SHARD.value,
            decoding=ImageDecoding(max_pixels=MAX_PIXELS.value),
        )
        written = writer.write(skip_bad=ON_BAD_RECORD.value == "skip")
    written_shards, skipped = writer.manifest["shards"], writer.manifest["skipped"]
    print(
        printable(str(folder)) + f": {SPLIT.value} {'is done' if written else 'was done already'}: "
        f"{sum(written_shards.values())} images, {_in_words(images.classes)}, "
        f"shards: {len(written_shards)}"
        + (f"; {len(skipped)} left out, see {SPLIT.value}.json" if skipped else "")
    )
    path = printable(shlex.quote(str(folder)))
    print(f"--config.data.source=array_record --config.data.path={path}")
    other = "val" if SPLIT.value == "train" else "train"
    if not (folder / f"{other}.json").exists():
        print(f"Training needs {other} too: run this command with its images and --split={other}.")


def _in_words(classes: Sequence[str]) -> str:
    if not classes:
        return "no classes (those of ImageNet's validation images are in its --devkit)"
    names = ", ".join(classes[:3]) + (", …" if len(classes) > 3 else "")
    return f"{len(classes)} classes ({printable(names)})"


if __name__ == "__main__":
    app.run(main, flags_parser=lambda argv: parse_flags(argv, check_flags, takes_arguments=True))
