"""Precision and recall against a plain NumPy version, and by hand."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from epsilon_vae.metrics.precision_recall import BLOCK, precision_recall


def plain_precision_recall(real: np.ndarray, generated: np.ndarray, k: int) -> tuple[float, float]:
    """By whole matrices of distances, in float64."""

    def share_inside(points, features):
        among = cdist(features, features)
        np.fill_diagonal(among, np.inf)
        radii = np.sort(among, axis=1)[:, k - 1]
        return (cdist(points, features) <= radii).any(axis=1).mean()

    return share_inside(generated, real), share_inside(real, generated)


def features(count: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1, size=(count, 8)).astype(np.float32)


def column(*values: float) -> np.ndarray:
    return np.array(values, np.float32)[:, None]


@pytest.mark.parametrize("k, offset", [(1, 0), (3, 30)])  # of both sets: squares that cancel
def test_equals_numpy(k, offset):
    real, generated = features(BLOCK + 188, 0) + offset, features(BLOCK + 88, 1, 0.7) + offset
    expected = plain_precision_recall(real, generated, k)
    assert min(expected) > 0.1 and max(expected) < 0.95
    np.testing.assert_allclose(precision_recall(real, generated, k), expected, rtol=1e-6)


def test_by_hand():
    real, generated = column(0, 1, 2, 3, 10), column(12, 13, 14, 15, 40)
    # Balls [-3, 3] [-1, 3] [0, 4] [0, 6] [1, 19], and [9, 15] [11, 15] [12, 16] [12, 18] [13, 67].
    assert precision_recall(real, generated) == (4 / 5, 1 / 5)
    # [-1, 1] [0, 2] [1, 3] [2, 4] [3, 17], and [11, 13] [12, 14] [13, 15] [14, 16] [15, 65].
    assert precision_recall(real, generated, k=1) == (4 / 5, 0)


def test_a_generator_of_one_image():
    """Four equal images have balls without size, in which they alone are."""
    real = features(50, 0)
    generated = np.repeat(real[:1], 4, axis=0)
    assert precision_recall(real, generated) == (1, 1 / 50)


def test_equal_and_separate_sets():
    real = features(50, 0)
    doubled = np.repeat(real, 4, axis=0)
    assert precision_recall(real, real) == (1, 1)
    assert precision_recall(doubled, doubled) == (1, 1)
    assert precision_recall(real, real + 100) == (0, 0)


def test_refuses():
    good = features(10, 0)
    for bad in (good[:, :4], good[0]):
        with pytest.raises(ValueError, match="the real ones"):
            precision_recall(good, bad)
    with pytest.raises(ValueError, match="3 features have no 3 neighbours"):
        precision_recall(good, good[:3])
    with pytest.raises(ValueError, match="not finite"):
        precision_recall(good, np.full_like(good, np.nan))
