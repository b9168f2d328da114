"""Batches of training images in an order that the seed alone decides, and evaluation batches."""

from collections.abc import Iterator, Sequence

import grain
import numpy as np

from epsilon_vae.data import transforms

# Batches ready ahead of the step, and threads that make them. PIL lets go of Python's lock.
PREFETCHED_BATCHES = 4
THREADS = 4


class _Augment(grain.transforms.RandomMap):
    """Crop and flip; its randomness comes from (seed, epoch, record index), which grain gives."""

    def __init__(self, crop: str, resolution: int, flip: bool):
        self.crop, self.resolution, self.flip = transforms.CROPS[crop], resolution, flip

    def random_map(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        image = self.crop(image, self.resolution, rng)
        if self.flip and rng.random() < 0.5:
            image = image[:, ::-1]
        return transforms.to_float(image)


def training_batches(
    source: Sequence[np.ndarray],
    batch_size: int,
    resolution: int,
    seed: int,
    crop: str,
    flip: bool,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.DatasetIterator:
    """Endless float32 batches `[batch_size / process_count, resolution, resolution, 3]`.

    Each epoch is shuffled anew, and epochs follow each other without a gap. The iterator's
    `get_state` and `set_state` go on at the right image.
    """
    dataset = grain.MapDataset.source(source).seed(seed).shuffle().repeat()
    dataset = dataset.random_map(_Augment(crop, resolution, flip))
    # Sliced after the map, whose randomness is seeded by the position in the whole order.
    dataset = dataset[process_index::process_count]
    dataset = dataset.batch(batch_size // process_count, drop_remainder=True)
    options = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=PREFETCHED_BATCHES)
    return iter(dataset.to_iter_dataset(options))


def evaluation_batches(
    source: Sequence[np.ndarray], batch_size: int, resolution: int
) -> Iterator[np.ndarray]:
    """uint8 centre crops `[n, resolution, resolution, 3]`, n ≤ batch_size, of each image once."""
    for start in range(0, len(source), batch_size):
        indices = range(start, min(start + batch_size, len(source)))
        yield np.stack([transforms.center_crop(source[i], resolution) for i in indices])
