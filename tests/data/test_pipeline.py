"""Order, augmentation, resuming."""

import numpy as np
import pytest

from epsilon_vae.data.pipeline import evaluation_batches, training_batches
from epsilon_vae.data.sources import photos


def batches(seed: int = 0, **more):
    arguments = {"batch_size": 4, "resolution": 32, "crop": "random_resized", "flip": True}
    return training_batches(photos("train"), seed=seed, **arguments | more)


def test_same_seed_same_batches_other_seed_others():
    first, again, other = next(batches()), next(batches()), next(batches(seed=1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.shape == (4, 32, 32, 3) and first.dtype == np.float32
    assert -1 <= first.min() < 0 < first.max() <= 1


def test_iterator_goes_on_at_the_right_image():
    iterator = batches()
    for _ in range(5):
        next(iterator)
    resumed = batches()
    resumed.set_state(iterator.get_state())
    for _ in range(3):
        np.testing.assert_array_equal(next(iterator), next(resumed))


@pytest.mark.parametrize("process_count", [2, 4])
def test_processes_share_the_same_global_batches(process_count):
    whole = batches(batch_size=8)
    shares = [
        batches(batch_size=8, process_index=i, process_count=process_count)
        for i in range(process_count)
    ]
    for _ in range(3):
        together = np.concatenate([next(share) for share in shares])
        order = [np.argmin([np.abs(x - y).max() for y in together]) for x in next(whole)]
        assert sorted(order) == list(range(8))


def test_an_epoch_holds_each_image_once():
    """Images of one colour each tell which one came."""
    source = [np.full((40, 40, 3), value, np.uint8) for value in range(0, 240, 20)]
    iterator = training_batches(source, 4, 32, 0, "random", False)
    epochs = []
    for _ in range(2):
        values = np.concatenate([next(iterator)[:, 0, 0, 0] for _ in range(3)])
        epochs.append(sorted(np.rint((values + 1) * 127.5)))
    assert epochs == [list(range(0, 240, 20))] * 2


def test_evaluation_covers_every_image_once():
    sizes = [len(batch) for batch in evaluation_batches(photos("train"), 4, 32)]
    assert sizes == [4, 4, 4, 2]
