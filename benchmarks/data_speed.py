"""JPEG files to training crops of 128 px: images a second, beside a DataLoader and tf.data.

`python -m benchmarks.data_speed [FOLDER]` re-encodes the photos of FOLDER (or the embedded ones) to
JPEGs of about 500 x 375, as ImageNet's, and reads them by each pipeline in turn, five rounds, with
two workers each (of tf.data, two parallel calls), on two cores: short side to 128, random crop,
flip, float32 in [-1, 1], batches of 64. Printed are medians over the rounds, and what the decoder
alone reaches.
"""

import contextlib
import functools
import glob
import itertools
import os
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from absl import app
from PIL import Image

from epsilon_vae.data import decode, transforms
from epsilon_vae.data.pipeline import BadRecords, TrainingBatches
from epsilon_vae.data.sources import Folder, Photos

RESOLUTION, BATCH_SIZE, WORKERS = 128, 64, 2
ROUNDS, WARMUP_BATCHES, BATCHES = 5, 20, 60
NUM_IMAGES = (WARMUP_BATCHES + BATCHES + 1) * BATCH_SIZE


def write_jpegs(photos: list[str], folder: str) -> None:
    """256 files, shrunk to the area of 500 x 375, quality 95, each under eight names."""
    images = [Image.open(photo) for photo in photos]
    images = [image for image in images if image.width * image.height >= 500 * 375]
    for index in range(256):
        image = images[index % len(images)]
        scale = (500 * 375 / (image.width * image.height)) ** 0.5
        size = round(image.width * scale), round(image.height * scale)
        image = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
        image.save(f"{folder}/0{index:03}.jpg", quality=95)
        for name in range(1, 8):
            os.link(f"{folder}/0{index:03}.jpg", f"{folder}/{name}{index:03}.jpg")


def ours(folder: str, workers: int) -> Iterator[np.ndarray]:
    """This project's pipeline; with no workers, threads."""
    source, share = Folder(folder), BadRecords(0, 1)
    batches = TrainingBatches(
        source,
        BATCH_SIZE,
        resolution=RESOLUTION,
        seed=0,
        crop="random",
        flip=True,
        reduced_jpeg=True,
        bad_records=share,
        workers=workers,
    )
    with contextlib.closing(batches):
        while True:
            yield next(batches)["image"]


def pil_transforms(path: str) -> np.ndarray:
    """Does to a PIL image what torchvision's Resize, RandomCrop and RandomHorizontalFlip do."""
    rng = np.random.default_rng()
    with Image.open(path) as image:
        image = image.convert("RGB")
    short = min(image.size)
    size = tuple(int(RESOLUTION * side / short) for side in image.size)
    image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (rng.integers(side - RESOLUTION + 1) for side in image.size)
    image = image.crop((left, top, left + RESOLUTION, top + RESOLUTION))
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(image).astype(np.float32) / 127.5 - 1


class PILDataset:
    """A data set for a DataLoader: `NUM_IMAGES` images of a folder, again and again."""

    def __init__(self, folder: str):
        self._paths = sorted(glob.glob(f"{folder}/*.jpg"))

    def __len__(self) -> int:
        return NUM_IMAGES

    def __getitem__(self, index: int) -> np.ndarray:
        return pil_transforms(self._paths[index % len(self._paths)])


def dataloader(folder: str) -> Iterator[np.ndarray]:
    """PIL transforms in a torch DataLoader with two workers."""
    from torch.utils.data import DataLoader

    loader = DataLoader(PILDataset(folder), BATCH_SIZE, shuffle=True, num_workers=WORKERS)
    yield from (batch.numpy() for batch in loader)


def tf_data(folder: str) -> Iterator[np.ndarray]:
    """tf.io.decode_and_crop_jpeg in tf.data, two calls in parallel."""
    import tensorflow as tf

    def load(path):
        data = tf.io.read_file(path)
        height, width = tf.unstack(tf.io.extract_jpeg_shape(data)[:2])
        side = tf.minimum(height, width)
        top = tf.random.uniform([], 0, height - side + 1, tf.int32)
        left = tf.random.uniform([], 0, width - side + 1, tf.int32)
        window = tf.stack([top, left, side, side])
        image = tf.io.decode_and_crop_jpeg(data, window, channels=3)
        image = tf.image.resize(image, (RESOLUTION, RESOLUTION), "bicubic", antialias=True)
        return tf.image.random_flip_left_right(image) / 127.5 - 1

    paths = sorted(glob.glob(f"{folder}/*.jpg"))
    dataset = tf.data.Dataset.from_tensor_slices(paths).repeat().shuffle(len(paths))
    dataset = dataset.map(load, num_parallel_calls=WORKERS).batch(BATCH_SIZE).prefetch(4)
    yield from dataset.as_numpy_iterator()


def decoder(folder: str, *, reduced: bool) -> Iterator[None]:
    """The decoder and nothing else, two threads; at the scale that the crop needs, or in full."""

    def load(data: bytes) -> None:
        image = decode.EncodedImage(data)
        image.rgb_reduced(RESOLUTION / min(image.size) if reduced else 1.0)

    files = [pathlib.Path(path).read_bytes() for path in sorted(glob.glob(f"{folder}/*.jpg"))]
    with ThreadPoolExecutor(WORKERS) as pool:
        for batch in itertools.count():
            start = batch * BATCH_SIZE
            list(pool.map(load, (files[i % len(files)] for i in range(start, start + BATCH_SIZE))))
            yield


def images_per_second(batches: Iterator) -> float:
    """Measures a new pipeline, without its start and its end."""
    for _ in range(WARMUP_BATCHES):
        next(batches)
    start = time.monotonic()
    for _ in range(BATCHES):
        next(batches)
    seconds = time.monotonic() - start
    batches.close()
    return BATCHES * BATCH_SIZE / seconds


def difference_db(folder: str) -> tuple[float, float]:
    """PSNR, median and least, of crops decoded at a reduced scale against fully decoded ones."""
    psnr = []
    for path in sorted(glob.glob(f"{folder}/0*.jpg")):
        data = pathlib.Path(path).read_bytes()
        crops = []
        for reduced in (False, True):
            image = decode.EncodedImage(data)
            box = transforms.random_crop(*image.size, np.random.default_rng(0))
            crop = transforms.render(image, box, size=RESOLUTION, reduced_jpeg=reduced)
            crops.append(crop.astype(float))
        psnr.append(10 * np.log10(255**2 / max(np.mean((crops[0] - crops[1]) ** 2), 1e-9)))
    return statistics.median(psnr), min(psnr)


def main(argv: list[str]) -> None:
    """Prints the images a second of each, and the ratios of ours to the others."""
    photos = sorted(glob.glob(f"{argv[1]}/**/*.jpg", recursive=True)) if len(argv) > 1 else None
    with tempfile.TemporaryDirectory() as folder:
        write_jpegs(photos or [str(path) for path in Photos("train").paths], folder)
        kilobytes = sum(map(os.path.getsize, glob.glob(f"{folder}/*"))) / 2048 / 1000
        print(f"256 JPEGs of about 500 x 375, {kilobytes:.0f} kB on average")
        pipelines: dict[str, Callable[[str], Iterator]] = {
            "ours, 2 workers": functools.partial(ours, workers=WORKERS),
            "ours, threads": functools.partial(ours, workers=0),
            "PIL in a DataLoader": dataloader,
            "tf.data": tf_data,
            "decoder alone, in full": functools.partial(decoder, reduced=False),
            "decoder alone, reduced": functools.partial(decoder, reduced=True),
        }
        rates: dict[str, list[float]] = {name: [] for name in pipelines}
        for _ in range(ROUNDS):
            for name, pipeline in pipelines.items():
                rates[name].append(images_per_second(pipeline(folder)))
        for name, values in rates.items():
            print(f"{name}: {statistics.median(values):.0f} images/s")
        for name in ("PIL in a DataLoader", "tf.data"):
            for mine in ("ours, 2 workers", "ours, threads"):
                pairs = zip(rates[mine], rates[name], strict=True)
                ratio = statistics.median(a / b for a, b in pairs)
                print(f"{mine} / {name}: {ratio:.2f}")
        median, least = difference_db(folder)
        print(f"reduced against full decoding: PSNR {median:.1f} dB, at the least {least:.1f} dB")


if __name__ == "__main__":
    sys.exit(app.run(main))
