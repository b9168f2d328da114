"""Makes a data set: `python -m epsilon_vae.data.prepare IN --output=DIR --split=train`.

IN is a folder, a tar, or one of ImageNet's tars. Writes shards of ArrayRecord, and prints the flags
that train on them. Run the same command again to resume. Exit codes: 0 done; 1 stopped by Ctrl-C;
2 something named on the command line cannot be used.
"""

import pathlib
import shlex
import sys
from collections.abc import Sequence

from absl import app, flags, logging

from epsilon_vae.data.archives import find_images, label, printable, read_devkit
from epsilon_vae.data.decode import DataError
from epsilon_vae.data.shards import ShardWriter

OUTPUT = flags.DEFINE_string("output", None, "Folder for the shards of both splits.")
SPLIT = flags.DEFINE_enum("split", None, ["train", "val"], "Which one IN is.")
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


def parse_flags(argv: Sequence[str]) -> list[str]:
    """absl's flags; what is wrong with them ends the program with one line and code 2."""
    try:
        rest = flags.FLAGS(argv)
        for name, value in (("output", OUTPUT.value), ("split", SPLIT.value)):
            if value is None:
                raise DataError(f"--{name} is missing")
        if "://" in OUTPUT.value:
            raise DataError(
                f"--output={OUTPUT.value}: not a folder of this machine; name one, and then "
                "gcloud storage cp -r it"
            )
        if len(rest) != 2:
            raise DataError(f"name one folder or tar, not {len(rest) - 1}: {' '.join(rest[1:])}")
    except (flags.Error, DataError) as error:
        _exit(2, " ".join(str(error).split()))
    return rest


def main(argv: Sequence[str]) -> None:
    """Looks for images, writes what is missing, and says how to use it."""
    logging.set_verbosity(logging.WARNING)
    try:
        folder = make_folder(OUTPUT.value)
        devkit = read_devkit(DEVKIT.value) if DEVKIT.value else None
        images = find_images(argv[1])
        if devkit:
            images = label(images, devkit)
        print(f"{argv[1]}: {len(images)} images, {_in_words(images.classes)}", flush=True)
        writer = ShardWriter(
            folder, SPLIT.value, images=images, records_per_shard=RECORDS_PER_SHARD.value
        )
        written = writer.write(skip_bad=ON_BAD_RECORD.value == "skip")
    except (DataError, OSError) as error:
        _exit(2, str(error))
    except KeyboardInterrupt:
        _exit(1, "stopped; to resume, run the same command again")
    shards, skipped = writer.manifest["shards"], writer.manifest["skipped"]
    print(
        f"{folder}: {SPLIT.value} {'is done' if written else 'was done already'}: "
        f"{sum(shards.values())} images, {_in_words(images.classes)}, {len(shards)} shards"
        + (f"; {len(skipped)} left out, see {SPLIT.value}.json" if skipped else "")
    )
    print(f"--config.data.source=array_record --config.data.path={shlex.quote(str(folder))}")


def make_folder(path: str) -> pathlib.Path:
    """The folder, which is made.

    Raises:
      DataError: it cannot be.
    """
    folder = pathlib.Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"--output={path}: cannot be made ({error.strerror}); name a folder of yours"
        ) from error
    return folder


def _in_words(classes: Sequence[str]) -> str:
    if not classes:
        return "no classes (those of ImageNet's validation images are in its --devkit)"
    names = ", ".join(classes[:3]) + (", …" if len(classes) > 3 else "")
    return f"{len(classes)} classes ({printable(names)})"


def _exit(code: int, message: str) -> None:
    print(f"epsilon_vae: {message}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
