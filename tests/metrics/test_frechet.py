"""The Fréchet distance against scipy's `sqrtm`, and what its accuracy rests on."""

import tracemalloc

import numpy as np
import pytest
from scipy import linalg

from epsilon_vae.metrics.frechet import FeatureStatistics, Gaussian, frechet_distance


def features(count: int, variances: np.ndarray, seed: int, mean: float = 0.4) -> np.ndarray:
    """`[count, d]` with these variances along directions that all seeds share."""
    dim = len(variances)
    directions = np.linalg.qr(np.random.default_rng(99).normal(size=(dim, dim)))[0]
    rng = np.random.default_rng(seed)
    return mean + (rng.normal(size=(count, dim)) * np.sqrt(variances)) @ directions


def statistics_of(*batches: np.ndarray) -> FeatureStatistics:
    statistics = FeatureStatistics.empty(batches[0].shape[1])
    for batch in batches:
        statistics.update(batch)
    return statistics


def gaussian_of(*batches: np.ndarray) -> Gaussian:
    return statistics_of(*batches).gaussian()


def assert_close(a: FeatureStatistics, b: FeatureStatistics) -> None:
    assert a.count == b.count
    for one, other in ((a.mean, b.mean), (a.scatter, b.scatter)):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12 * np.abs(other).max())


POWER_LAW = 20 / np.arange(1, 129) ** 1.5  # Inception's features have about such variances


def test_equals_scipy_sqrtm():
    a = gaussian_of(features(500, POWER_LAW, 0))
    b = gaussian_of(features(700, POWER_LAW[::-1], 1, mean=0.5))
    root = linalg.sqrtm(a.covariance @ b.covariance).real
    expected = np.sum((a.mean - b.mean) ** 2) + np.trace(a.covariance + b.covariance - 2 * root)
    np.testing.assert_allclose(frechet_distance(a, b), expected, rtol=1e-6)
    np.testing.assert_allclose(frechet_distance(b, a), expected, rtol=1e-6)


def test_diagonal_covariances():
    """tr(Σ₁ + Σ₂ - 2 (Σ₁Σ₂)^½) = Σ (σ₁ - σ₂)² where they commute."""
    a = Gaussian(np.array([1.0, 0.0, 0.0]), np.diag([4.0, 9.0, 0.0]))
    b = Gaussian(np.array([0.0, 0.0, 2.0]), np.diag([1.0, 0.0, 25.0]))
    np.testing.assert_allclose(frechet_distance(a, b), 5 + 1 + 9 + 25, rtol=1e-12)


@pytest.mark.parametrize(
    "count, variances, mean",
    [
        (500, POWER_LAW, 0.4),
        (60, POWER_LAW, 0.4),  # fewer features than dimensions
        (60, np.ones(128), 100),
        (500, 20 * np.logspace(0, -8, 128), 0.4),
        (500, 20 * np.logspace(0, -16, 128), 0.4),
        (2, np.ones(128), 0.4),
    ],
)
def test_equal_sets_are_at_distance_zero(count, variances, mean):
    x = features(count, variances, 0, mean)
    assert frechet_distance(gaussian_of(x), gaussian_of(x)) < 1e-9
    batches = np.array_split(x, 7)
    assert frechet_distance(gaussian_of(x), gaussian_of(*batches)) < 1e-9


def test_singular_covariances_of_two_ranks():
    """Σ over principal directions of (σ₁ - σ₂)², where only the first of them vary."""
    variances = POWER_LAW * (np.arange(128) < 50), 2 * POWER_LAW * (np.arange(128) < 20)
    directions = np.linalg.qr(np.random.default_rng(0).normal(size=(128, 128)))[0]
    a, b = (Gaussian(np.zeros(128), directions * w @ directions.T) for w in variances)
    expected = np.sum((np.sqrt(variances[0]) - np.sqrt(variances[1])) ** 2)
    np.testing.assert_allclose(frechet_distance(a, b), expected, rtol=1e-12)
    np.testing.assert_allclose(frechet_distance(b, a), expected, rtol=1e-12)


def test_covariances_of_zero():
    a, b = (Gaussian(np.full(4, x), np.zeros((4, 4))) for x in (1.0, 2.0))
    assert frechet_distance(a, b) == 4


def test_moments_equal_numpy():
    x = features(500, POWER_LAW, 0).astype(np.float32)
    gaussian = gaussian_of(x)
    np.testing.assert_allclose(gaussian.mean, x.mean(axis=0, dtype=np.float64), rtol=1e-12)
    expected = np.cov(x.astype(np.float64), rowvar=False)
    np.testing.assert_allclose(gaussian.covariance, expected, atol=1e-12)


def test_large_means_cost_no_digits():
    x = features(500, POWER_LAW, 0, mean=0)
    np.testing.assert_allclose(
        gaussian_of(*np.array_split(x + 2.0**20, 9)).covariance,
        np.cov(x + 2.0**20, rowvar=False),
        atol=1e-9,  # raw second moments would lose 1e12 · 1e-16
    )


@pytest.mark.parametrize("batch_size", [1, 7, 64, 500])
def test_batch_size_does_not_matter(batch_size):
    x = features(500, POWER_LAW, 0)
    batches = np.split(x, range(batch_size, 500, batch_size))
    assert_close(statistics_of(*batches), statistics_of(x))


def test_merge():
    x = features(500, POWER_LAW, 0)
    parts = [statistics_of(part) for part in (x[:10], x[:0], x[10:400], x[400:])]
    whole = FeatureStatistics.empty(128)
    for part in parts:
        whole.merge(part)
    assert_close(whole, statistics_of(x))
    with pytest.raises(ValueError, match="3 numbers"):
        whole.merge(FeatureStatistics.empty(3))


def test_goes_on_from_a_file(tmp_path):
    x = features(300, POWER_LAW, 0)
    np.savez(tmp_path / "statistics.npz", **vars(statistics_of(x[:100])))
    again = FeatureStatistics(**np.load(tmp_path / "statistics.npz"))
    again.update(x[100:])
    expected = statistics_of(x[:100], x[100:])
    assert again.count == 300
    np.testing.assert_array_equal(again.mean, expected.mean)
    np.testing.assert_array_equal(again.scatter, expected.scatter)


def test_memory_is_constant():
    x = np.random.default_rng(0).normal(size=(100, 256)).astype(np.float32)
    statistics = FeatureStatistics.empty(256)
    peaks = []
    tracemalloc.start()
    for _ in range(2):
        tracemalloc.reset_peak()
        for _ in range(10):
            statistics.update(x)
        peaks.append(tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
    assert peaks[1] < 1.01 * peaks[0] and peaks[1] < 4 * statistics.scatter.nbytes


def test_refuses():
    statistics = FeatureStatistics.empty(4)
    with pytest.raises(ValueError, match="two features, not 1"):
        statistics_of(np.ones((1, 4))).gaussian()
    for shape in ((4,), (2, 5), (2, 2, 4)):
        with pytest.raises(ValueError, match="not \\[B, 4\\]"):
            statistics.update(np.zeros(shape))
    with pytest.raises(ValueError, match="not finite"):
        statistics.update(np.full((2, 4), np.nan))
    assert statistics.count == 0
    good = Gaussian(np.zeros(4), np.eye(4))
    for bad in (Gaussian(np.zeros(3), np.eye(3)), Gaussian(np.zeros(4), np.ones(4))):
        with pytest.raises(ValueError, match="do not fit"):
            frechet_distance(good, bad)
    with pytest.raises(ValueError, match="not finite"):
        frechet_distance(good, Gaussian(np.zeros(4), np.full((4, 4), np.inf)))
