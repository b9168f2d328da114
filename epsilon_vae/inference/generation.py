"""Images of a latent diffusion model and a decoder go into a folder, in parts.

Each process writes parts of its own.

A part is a fixed range of the images' numbers, and has its name once it is whole. So what is
finished is seen from the folder, and neither stops, devices nor processes change what is written.
"""

import functools
import math
import pathlib
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image
from tqdm import tqdm

from epsilon_vae.data.files import list_images
from epsilon_vae.data.image_set import ImageSet
from epsilon_vae.data.shards import check_space
from epsilon_vae.data.transforms import to_uint8
from epsilon_vae.diffusion.guidance import Guidance
from epsilon_vae.inference.autoencoder import Autoencoder
from epsilon_vae.inference.latent_diffusion import TrainedLatentDiffusion
from epsilon_vae.output import is_seen, replacing
from epsilon_vae.parallel import hosts
from epsilon_vae.parallel.batch import IMAGES_PER_DEVICE
from epsilon_vae.resumable import OtherPlanError, ResumableFolder
from epsilon_vae.versions import versions

PLAN, NPZ = "generation.json", "images.npz"
NO_CLASS = -1
GRID_IMAGES = 64


def plan_generation(
    trained: TrainedLatentDiffusion,
    autoencoder: Autoencoder,
    *,
    workdir: str,
    autoencoder_workdir: str,
    classes: Sequence[int],
    num_images: int,
    seed: int,
    nfe: int,
    guidance: Guidance,
    decoder_nfe: int,
    file_format: str,
    images_per_part: int,
) -> dict[str, Any]:
    """All that the images depend on, as `generation.json` holds it.

    Args:
      trained: the latent diffusion model.
      autoencoder: whose decoder makes images of its latents.
      workdir, autoencoder_workdir: the runs that they are restored from.
      classes: labels that images take in turn; none without classes.
      num_images: in all.
      seed: of all noise.
      nfe: of the latent diffusion model.
      guidance: by the labels.
      decoder_nfe: of the decoder.
      file_format: 'png' or 'npz'.
      images_per_part: of which a stop loses no more than one.

    Raises:
      DataError: the latents that the model was trained on are of another autoencoder.
    """
    trained.metadata.check_encoder(autoencoder.encoder_fingerprint())
    return {
        "generator": {"workdir": workdir, "step": trained.step, "weights": "ema"},
        "autoencoder": {"workdir": autoencoder_workdir, "step": autoencoder.step},
        "encoder_sha256": trained.metadata.provenance["encoder_sha256"],
        "num_images": num_images,
        "classes": list(classes),
        "seed": seed,
        "process": trained.config.flow.process,
        "spacing": trained.config.flow.spacing,
        "nfe": nfe,
        "guidance": guidance.scale,
        "guidance_interval": list(guidance.interval),
        "decoder_nfe": decoder_nfe,
        "format": file_format,
        "images_per_part": images_per_part,
    }


def generate_images(
    trained: TrainedLatentDiffusion, autoencoder: Autoencoder, *, plan: dict[str, Any], output: str
) -> int:
    """Writes the images that are missing, and a grid of the first; all processes call alike.

    Image i is of class `classes[i mod len(classes)]`, or of none, and a function of (seed, i)
    alone. In the folder: `images/part-00000/00000000.png`… or, of them, `images.npz`, `arr_0`
    uint8 `[N, H, W, 3]`, as ADM's evaluator reads it; `grid.png`; and `generation.json`.

    Args:
      trained: on devices of this process.
      autoencoder: likewise.
      plan: of `plan_generation`.
      output: folder; the same call resumes from what it holds.

    Returns:
      How many images all processes have generated: 0 where all was done.

    Raises:
      PlanError: the folder holds other images, or is not the same for all processes.
      DataError: a disk that is too small.
      OutputError: a disk that is full or not writable.
    """
    folder = pathlib.Path(output)
    _job(output, plan).start(
        plan | {"versions": versions()}, check=functools.partial(_check_is_empty, folder)
    )
    indices = np.arange(plan["num_images"])
    size = plan["images_per_part"]
    parts = [indices[i : i + size] for i in indices[::size]]
    is_done = (folder / NPZ).exists()
    own = range(jax.process_index(), len(parts), jax.process_count())
    missing = [] if is_done else [i for i in own if not _part_folder(folder, i).exists()]
    num_missing = hosts.total(sum(len(parts[i]) for i in missing))
    if num_missing:
        copies = 2 if plan["format"] == "npz" else 1  # which is made of the PNGs
        size = copies * num_missing * 3 * trained.config.data.resolution**2
        check_space(folder, size, "images")
        draw = _drawing(trained, autoencoder, plan)
        total = sum(len(parts[i]) for i in missing)
        hidden = None if hosts.is_first() else True  # None: shown on a terminal
        with tqdm(total=total, unit="image", dynamic_ncols=True, disable=hidden) as bar:
            for i in missing:
                images = [image for batch in _batches(parts[i]) for image in draw(batch, bar)]
                _write_part(_part_folder(folder, i), parts[i], images)
    hosts.barrier("images written")
    if hosts.is_first():
        if not is_done:
            _finish(folder, plan)
        if (folder / NPZ).exists():
            shutil.rmtree(folder / "images", ignore_errors=True)
    hosts.barrier("generation finished")
    return num_missing


def _finish(folder: pathlib.Path, plan: dict[str, Any]) -> None:
    """Writes the grid and, if it is asked for, one file of all images."""
    for path in (folder / "images").iterdir():
        if path.suffix:  # a part that a killed process began
            shutil.rmtree(path)
    is_seen(lambda: len(list_images(folder / "images")) == plan["num_images"])
    images = ImageSet(str(folder / "images"))
    first = next(images.batches(GRID_IMAGES))
    with replacing(folder / "grid.png") as partial:
        Image.fromarray(grid(first)).save(partial, "png")
    if plan["format"] == "npz":
        _join(images, folder / NPZ, first.shape[1:])


def grid(images: np.ndarray) -> np.ndarray:
    """uint8 images `[N, H, W, 3]`, row by row in a square of them; what is left of it is black."""
    side = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / side)
    cells = np.zeros((rows * side, *images.shape[1:]), np.uint8)
    cells[: len(images)] = images
    height, width = images.shape[1:3]
    cells = cells.reshape(rows, side, height, width, 3).swapaxes(1, 2)
    return cells.reshape(rows * height, side * width, 3)


def _drawing(
    trained: TrainedLatentDiffusion, autoencoder: Autoencoder, plan: dict[str, Any]
) -> Callable[[np.ndarray, tqdm], np.ndarray]:
    """Numbers of images → uint8 images."""
    guidance = Guidance(plan["guidance"], tuple(plan["guidance_interval"]))
    sampler = trained.sampler(plan["nfe"], guidance)
    classes = np.array(plan["classes"] or [NO_CLASS])

    def draw(indices: np.ndarray, bar: tqdm) -> np.ndarray:
        labels = classes[indices % len(classes)]
        latents = sampler(trained.params, indices, labels=labels, seed=plan["seed"])
        images = autoencoder.decode(latents, plan["decoder_nfe"], plan["seed"])
        bar.update(len(indices))
        return to_uint8(images)

    return draw


def _batches(indices: np.ndarray) -> Iterator[np.ndarray]:
    size = IMAGES_PER_DEVICE * jax.local_device_count()
    for start in range(0, len(indices), size):
        yield indices[start : start + size]


def _part_folder(folder: pathlib.Path, part: int) -> pathlib.Path:
    """The folder of a part that is finished."""
    return folder / "images" / f"part-{part:05d}"


def existing_plan(output: str) -> dict[str, Any]:
    """The plan of images that are in the folder, finished or not; empty where there are none."""
    try:
        plan = _job(output, {}).read()
    except OtherPlanError:  # what is wrong with it, `generate_images` says
        return {}
    of = plan.get("generator")
    is_whole = isinstance(of, dict) and type(of.get("step")) is int
    return plan if is_whole else {}


def _job(output: str, plan: Mapping[str, Any]) -> ResumableFolder:
    return ResumableFolder(pathlib.Path(output), PLAN, plan=plan)


def _check_is_empty(folder: pathlib.Path, content: Mapping[str, Any]) -> None:
    """Raises `OtherPlanError` for a folder that holds things of another kind."""
    if not content and folder.is_dir() and any(folder.glob("[!.]*")):
        raise OtherPlanError(f"{folder}: is not empty, and has no {PLAN}")


def _write_part(path: pathlib.Path, indices: np.ndarray, images: Sequence[np.ndarray]) -> None:
    """Writes the PNGs of a part: all of them or none."""
    with replacing(path) as partial:
        partial.mkdir()
        for i, image in zip(indices, images, strict=True):
            Image.fromarray(image).save(partial / f"{i:08d}.png")


def _join(images: ImageSet, path: pathlib.Path, shape: Sequence[int]) -> None:
    """Writes all images into one `.npz`, never more than a few of them in memory."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(images), *shape)}
    with (
        replacing(path) as partial,
        zipfile.ZipFile(partial, "w") as archive,
        archive.open("arr_0.npy", "w", force_zip64=True) as file,
    ):
        np.lib.format.write_array_header_1_0(file, header)
        for batch in images.batches(IMAGES_PER_DEVICE):
            file.write(batch.tobytes())
