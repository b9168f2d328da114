"""Reconstructs pictures: `python -m epsilon_vae.reconstruct IN… --output=OUT`.

The model is that of a run, `--workdir=DIR`, or one that comes with the package.
IN are image files or folders of them. For one file, OUT may be a file; else it is a folder. Prints
the PSNR of each. What cannot be read is named, and the others are reconstructed. Nothing that is
there is overwritten, but for earlier outputs with --overwrite. Exit codes: 0 done; 1 some pictures
could not be read; 2 something named on the command line cannot be used.
"""

from __future__ import annotations

import os
import pathlib
import sys
from collections.abc import Sequence

import numpy as np
from absl import app, flags, logging
from etils import epy
from PIL import Image
from tqdm import tqdm

from epsilon_vae.command_line import UsageError, exit_codes, exit_with, parse_flags
from epsilon_vae.data.decode import (
    DEFAULT,
    DataError,
    DecodeError,
    EncodedImage,
    ImageDecoding,
    read_file,
)
from epsilon_vae.data.files import list_images
from epsilon_vae.data.formats import SUFFIXES, is_named_as
from epsilon_vae.model_flags import ModelFlags
from epsilon_vae.names import printable
from epsilon_vae.output import replacing

with epy.lazy_imports():  # of what takes seconds, and is not needed for flags
    from epsilon_vae.inference import autoencoder
    from epsilon_vae.metrics import psnr_ssim

MODEL = ModelFlags()
OUTPUT = flags.DEFINE_string("output", None, "Image file or folder to write.")
STEPS = flags.DEFINE_integer("steps", 3, "Network evaluations (NFE) a picture.", lower_bound=1)
SEED = flags.DEFINE_integer("seed", 0, "Seed of the noise that decoding starts from.")
SPACE = flags.DEFINE_integer("space", 1, "Devices that the rows of a picture are spread over.", 1)
OVERWRITE = flags.DEFINE_bool(
    "overwrite", default=False, help="Replace outputs that exist; inputs never are."
)
CONVERT_PROFILES = flags.DEFINE_bool(
    "convert_profiles", default=True, help="Convert colors of ICC profiles to sRGB."
)
TILE = flags.DEFINE_integer(
    "tile",
    None,
    "Side of the tiles, in pixels, that larger pictures are cut into; 0 for none. By default twice "
    "the resolution of training, for pictures of more than 4 x 4 of that.",
)
MAX_PIXELS = flags.DEFINE_integer("max_pixels", DEFAULT.max_pixels, "Of the largest picture.", 1)

# What pictures may be written as: with all their colors.
OUTPUT_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")

Pairs = list[tuple[pathlib.Path, pathlib.Path]]


def check_flags() -> None:
    """Raises `UsageError` for flags that are missing."""
    if OUTPUT.value is None:
        raise UsageError("--output is missing: name an image file or a folder to write")
    MODEL.check()


def find_pictures(inputs: Sequence[str], output: str, *, overwrite: bool = False) -> Pairs:
    """Pairs of an existing image file and the file to write for it.

    Raises:
      DataError: an input is missing, a folder holds no image, two would be written to one file, or
        one would be written to an input, or, unless `overwrite`, to a file that exists.
    """
    sources: Pairs = []
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
    is_one_file = len(inputs) == 1 and not pathlib.Path(inputs[0]).is_dir()
    if is_one_file and target.suffix and not target.is_dir():
        if target.suffix.lower() not in OUTPUT_SUFFIXES:
            raise DataError(f"--output={output}: a picture ends in {', '.join(OUTPUT_SUFFIXES)}")
        pairs = [(sources[0][0], target)]
    else:
        pairs = [(source, target / relative.with_suffix(".png")) for source, relative in sources]
    _check_outputs(inputs, pairs, target, overwrite=overwrite)
    return pairs


def _check_outputs(
    inputs: Sequence[str], pairs: Pairs, target: pathlib.Path, *, overwrite: bool
) -> None:
    """Raises `DataError` where something that is there would be lost, or become an input."""
    for name in inputs:
        if os.path.isdir(name) and os.path.realpath(name) == os.path.realpath(target):
            raise DataError(f"--output={target}: is an input; name another folder")
    originals = {os.path.realpath(source): source for source, _ in pairs}
    seen: dict[pathlib.Path, pathlib.Path] = {}
    for source, written in pairs:
        if written in seen:
            raise DataError(f"{source} and {seen[written]} would both be written to {written}")
        seen[written] = source
        if os.path.realpath(written) in originals:
            raise DataError(f"{written}: is an input; name another --output")
        if os.path.lexists(written) and not overwrite:
            raise DataError(f"{written}: exists; name another --output, or set --overwrite")


def reconstruct_file(
    vae: autoencoder.Autoencoder, source: pathlib.Path, written: pathlib.Path
) -> float:
    """Writes a picture's reconstruction, and prints and returns its PSNR in dB.

    Raises:
      DataError: the picture cannot be read.
      OutputError: the reconstruction cannot be written.
    """
    decoding = ImageDecoding(convert_profiles=CONVERT_PROFILES.value, max_pixels=MAX_PIXELS.value)
    try:
        encoded = EncodedImage(read_file(source), decoding)
        image = np.asarray(encoded.rgb())
    except (OSError, DecodeError) as error:
        raise DataError(f"{source}: not a readable image ({error})") from error
    height, width = image.shape[:2]
    if tiling := vae.tiling(height, width):
        words = f"{width} x {height} px in {len(tiling.corners)} tiles of {tiling.side} px"
        tqdm.write(printable(f"{source}: {words} (--tile)"), file=sys.stderr)
    reconstruction = vae.reconstruct(image, STEPS.value, SEED.value)
    file_format = Image.registered_extensions()[written.suffix.lower()]
    with replacing(written) as partial:
        Image.fromarray(reconstruction).save(partial, file_format)
    score = float(psnr_ssim.psnr(image[None] / 255, reconstruction[None] / 255)[0])
    kind = "" if is_named_as(source.name, encoded.format) else f" (is {encoded.format})"
    tqdm.write(printable(f"{source}{kind} -> {written}") + f"  PSNR {score:.2f} dB")
    return score


def main(argv: Sequence[str]) -> None:
    """Reads, reconstructs and writes one picture after the other."""
    logging.set_verbosity(logging.WARNING)
    with exit_codes(OSError):
        if len(argv) < 2:
            raise DataError("no picture named: give image files or folders")
        pairs = find_pictures(argv[1:], OUTPUT.value, overwrite=OVERWRITE.value)
        vae = MODEL.open(space=SPACE.value, progress=sys.stderr.isatty(), tile=TILE.value)
        scores, unread = [], []
        for source, written in tqdm(pairs, unit="image", disable=not sys.stderr.isatty()):
            try:
                scores.append(reconstruct_file(vae, source, written))
            except DataError as error:
                if len(pairs) == 1:
                    raise
                unread.append(str(source))
                tqdm.write(printable(f"Left out: {error}"), file=sys.stderr)
        if len(scores) > 1:
            print(f"mean PSNR of {len(scores)} images: {np.mean(scores):.2f} dB")
        if unread:
            exit_with(1, f"{len(unread)} of {len(pairs)} could not be read: {', '.join(unread)}")


if __name__ == "__main__":
    app.run(main, flags_parser=lambda argv: parse_flags(argv, check_flags, takes_arguments=True))
