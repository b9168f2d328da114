"""Reconstructs pictures: `python -m epsilon_vae.reconstruct --workdir=DIR IN… --output=OUT`.

IN are image files or folders of them. For one file, OUT may be a file; else it is a folder. Prints
the PSNR of each. Exit codes: 0 done; 2 something named on the command line cannot be used.
"""

import os
import pathlib
import sys
from collections.abc import Sequence

import numpy as np
from absl import app, flags, logging
from PIL import Image
from tqdm import tqdm

from epsilon_vae.command_line import UsageError, exit_codes, parse_flags
from epsilon_vae.data.decode import SUFFIXES, DataError, list_images, read_image
from epsilon_vae.inference.autoencoder import restore
from epsilon_vae.metrics.psnr_ssim import psnr
from epsilon_vae.names import printable

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a training run.")
OUTPUT = flags.DEFINE_string("output", None, "Image file or folder to write.")
STEPS = flags.DEFINE_integer("steps", 3, "Network evaluations (NFE) a picture.", lower_bound=1)
SEED = flags.DEFINE_integer("seed", 0, "Seed of the noise that decoding starts from.")
SPACE = flags.DEFINE_integer("space", 1, "Devices that the rows of a picture are spread over.", 1)
STEP = flags.DEFINE_integer("checkpoint_step", None, "Checkpoint to use; the newest by default.")


def check_flags() -> None:
    """Raises `UsageError` for flags that are missing."""
    if WORKDIR.value is None:
        raise UsageError("--workdir is missing: name the folder of a run")
    if OUTPUT.value is None:
        raise UsageError("--output is missing: name an image file or a folder to write")


def find_pictures(inputs: Sequence[str], output: str) -> list[tuple[pathlib.Path, pathlib.Path]]:
    """Pairs of an existing image file and the file to write for it.

    Raises:
      DataError: an input is missing, a folder holds no image, or two would be written to one file.
    """
    sources: list[tuple[pathlib.Path, pathlib.Path]] = []
    for name in inputs:
        path = pathlib.Path(name)
        if path.is_dir():
            files = list_images(path)
            if not files:
                raise DataError(f"{path}: no image in it; looked for {', '.join(SUFFIXES)}")
            sources += [(file, file.relative_to(path)) for file in files]
        elif os.path.lexists(path):
            sources.append((path, pathlib.Path(path.name)))
        else:
            raise DataError(f"{path}: no such file or folder")
    target = pathlib.Path(output)
    if len(inputs) == 1 and not pathlib.Path(inputs[0]).is_dir() and target.suffix:
        if target.suffix.lower() not in SUFFIXES:
            raise DataError(f"--output={output}: a picture ends in {', '.join(SUFFIXES)}")
        return [(sources[0][0], target)]
    pairs = [(source, target / relative.with_suffix(".png")) for source, relative in sources]
    seen: dict[pathlib.Path, pathlib.Path] = {}
    for source, written in pairs:
        if written in seen:
            raise DataError(f"{source} and {seen[written]} would both be written to {written}")
        seen[written] = source
    return pairs


def main(argv: Sequence[str]) -> None:
    """Reads, reconstructs and writes one picture after the other."""
    logging.set_verbosity(logging.WARNING)
    with exit_codes(OSError):
        if len(argv) < 2:
            raise DataError("no picture named: give image files or folders")
        pairs = find_pictures(argv[1:], OUTPUT.value)
        autoencoder = restore(WORKDIR.value, STEP.value, SPACE.value)
        scores = []
        for source, written in tqdm(pairs, unit="image", disable=not sys.stderr.isatty()):
            image = read_image(source)
            reconstruction = autoencoder.reconstruct(image, STEPS.value, SEED.value)
            written.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(reconstruction).save(written)
            scores.append(float(psnr(image[None] / 255, reconstruction[None] / 255)[0]))
            names = printable(f"{source} -> {written}")
            tqdm.write(f"{names}  PSNR {scores[-1]:.2f} dB")
    if len(scores) > 1:
        print(f"mean PSNR of {len(scores)} images: {np.mean(scores):.2f} dB")


if __name__ == "__main__":
    app.run(main, flags_parser=lambda argv: parse_flags(argv, check_flags, takes_arguments=True))
