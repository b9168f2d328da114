"""Encodes a data set: `python -m epsilon_vae.encode --workdir=DIR --data=SOURCE --output=DIR2`.

Writes shards of latents, of each image and of its mirror image, and latents.json: what made them,
and their mean and deviation by channel. Stopped or killed, it resumes when the same command is run
again. On several processes, each runs the command. Exit codes: 0 done; 1 stopped, or another
process was lost; 2 the command cannot run, or had to end, as on a full disk.
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import app, flags, logging
from etils import epy

from epsilon_vae import command_line
from epsilon_vae.command_line import UsageError, exit_codes, parse_flags
from epsilon_vae.data.transforms import EVALUATION_CROPS
from epsilon_vae.names import printable

with epy.lazy_imports():  # of what takes seconds, and is not needed for flags
    import jax

    from epsilon_vae import resumable
    from epsilon_vae.data import named
    from epsilon_vae.inference import encoding, restoring
    from epsilon_vae.parallel import batch, hosts, mesh

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a training run.")
STEP = flags.DEFINE_integer("checkpoint_step", None, "Checkpoint to use; the newest by default.")
DATA = flags.DEFINE_string(
    "data", None, "Images: 'photos', a folder of them, array_record:DIR or tfds:NAME."
)
SPLIT = flags.DEFINE_string("split", "train", "Split of photos, array_record: or tfds:.")
OUTPUT = flags.DEFINE_string("output", None, "Folder to write.")
RESOLUTION = flags.DEFINE_integer(
    "resolution", None, "Size of the crops; the run's by default.", lower_bound=1
)
CROP = flags.DEFINE_enum("crop", "center_crop_adm", list(EVALUATION_CROPS), "Crop of the images.")
DTYPE = flags.DEFINE_enum("dtype", "float16", ["float16", "bfloat16"], "Type that is stored.")
RECORDS_PER_SHARD = flags.DEFINE_integer(
    "records_per_shard",
    4096,
    "Images a shard; an unfinished one is encoded anew.",
    lower_bound=1,
)
WORKERS = flags.DEFINE_integer(
    "workers", 0, "Processes that decode images; 0 = threads of this one.", lower_bound=0
)
HOSTS = command_line.HostFlags()


def check_flags() -> None:
    """Raises `UsageError` for flags that are missing or do not fit."""
    if WORKDIR.value is None:
        raise UsageError("--workdir is missing: name the folder of a run")
    if DATA.value is None:
        raise UsageError("--data is missing: photos, a folder, array_record:DIR or tfds:NAME")
    if OUTPUT.value is None:
        raise UsageError("--output is missing: name a folder for the latents")
    if "://" in OUTPUT.value:
        raise UsageError(
            f"--output={OUTPUT.value}: not a folder of this machine; name one, and then gcloud "
            "storage cp -r it"
        )
    command_line.check_folder(WORKDIR)


def main(argv: Sequence[str]) -> None:
    """Joins the other processes, if any, and encodes."""
    del argv
    logging.set_verbosity(logging.WARNING)
    hints = {
        encoding.OtherEncoderError: "name that one, with --checkpoint_step, or another --output",
        resumable.OtherPlanError: "name another --output",
    }
    with exit_codes(OSError, hints=hints):
        HOSTS.start()
        index, num_encoded = _encode()
        if hosts.is_first():
            shape = "x".join(map(str, index["shape"]))
            print(
                f"{printable(OUTPUT.value)}: {'done' if num_encoded else 'was done already'}: "
                f"{index['num_records']} images and their mirror images, latents of {shape}, "
                f"{index['dtype']}, shards: {len(index['shards'])}, {num_encoded} images encoded"
            )


def _encode() -> tuple[dict, int]:
    data = named.open_data(DATA.value, SPLIT.value)
    # Each process encodes on its own, for its own shards.
    devices = mesh.make_mesh(devices=jax.local_devices())
    vae = restoring.restore(
        WORKDIR.value, STEP.value, mesh=devices, group_size=batch.IMAGES_PER_DEVICE, tile=0
    )
    return encoding.encode_data(
        vae,
        WORKDIR.value,
        data=data,
        output=OUTPUT.value,
        resolution=RESOLUTION.value or vae.config.data.resolution,
        crop=CROP.value,
        dtype=DTYPE.value,
        records_per_shard=RECORDS_PER_SHARD.value,
        workers=WORKERS.value,
    )


if __name__ == "__main__":
    app.run(main, flags_parser=lambda argv: parse_flags(argv, check_flags))
