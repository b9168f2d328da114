"""TensorFlow 1's resizing by its definition, in pure Python."""

import jax.numpy as jnp
import numpy as np
import pytest

from epsilon_vae.metrics.inception import resize_like_tensorflow1


def resized(row: np.ndarray, size: int) -> list[float]:
    """One row, by the rule: output i lies at i * length / size."""
    values = []
    for i in range(size):
        place = i * len(row) / size
        low = int(place)
        high = min(low + 1, len(row) - 1)
        values.append(row[low] + (row[high] - row[low]) * (place - low))
    return values


@pytest.mark.parametrize("length", [1, 5, 16, 40])
def test_resizing_is_that_of_tensorflow_1(length):
    """Smaller, larger and as large, along each side."""
    row = np.random.RandomState(0).uniform(0, 255, length)
    expected = np.array(resized(row, 16))
    wide = jnp.asarray(np.tile(row[:, None, None], (1, 3, 2))[None], jnp.float32)
    actual = np.asarray(resize_like_tensorflow1(wide, 16))
    assert actual.shape == (1, 16, 16, 2)
    np.testing.assert_allclose(
        actual, np.tile(expected[:, None, None], (1, 16, 2))[None], atol=1e-3
    )
    turned = np.asarray(resize_like_tensorflow1(wide.swapaxes(1, 2), 16))
    np.testing.assert_allclose(turned, actual.swapaxes(1, 2), atol=1e-3)
