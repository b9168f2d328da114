"""Fréchet distance of two sets of features, each taken for a Gaussian (Heusel et al. 2017).

Over Inception's pool features it is called FID; between images and their reconstructions, rFID.
All of it is float64 on the host: TPUs have none.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from scipy import linalg


class Gaussian(NamedTuple):
    """Mean `[d]` and covariance `[d, d]`: `mu` and `sigma` of ADM's and pytorch-fid's `.npz`."""

    mean: np.ndarray
    covariance: np.ndarray


@dataclasses.dataclass
class FeatureStatistics:
    """Moments of a stream of features, in memory that does not grow with it.

    Means and scatters are merged (Chan et al. 1983): raw second moments would lose the digits that
    a mean larger than the deviation takes. Another cut into batches changes the last digits only.

    `np.savez(path, **vars(statistics))` saves, `FeatureStatistics(**np.load(path))` resumes.

    Args:
      count: of features, N.
      mean: `[d]`, float64.
      scatter: `[d, d]`, float64, the sum of (x - mean)(x - mean)ᵀ. Changed in place.
    """

    count: int
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def empty(cls, dim: int) -> "FeatureStatistics":
        """Statistics of no features yet, with `dim` numbers each."""
        return cls(0, np.zeros(dim), np.zeros((dim, dim)))

    def update(self, features: np.ndarray) -> None:
        """Adds a batch `[B, d]`, which may be empty.

        Raises:
          ValueError: another shape, or a number that is not finite.
        """
        features = np.asarray(features, np.float64)
        if features.ndim != 2 or features.shape[1:] != self.mean.shape:
            raise ValueError(f"features are {features.shape}, not [B, {self.mean.size}]")
        if not np.isfinite(features).all():
            raise ValueError("features are not finite")
        mean = features.sum(axis=0) / max(len(features), 1)
        centred = features - mean
        self.merge(FeatureStatistics(len(features), mean, centred.T @ centred))

    def merge(self, other: "FeatureStatistics") -> None:
        """Adds all that another accumulator has seen.

        Raises:
          ValueError: its features have another length.
        """
        if other.mean.shape != self.mean.shape:
            raise ValueError(f"features of {other.mean.size} numbers, not {self.mean.size}")
        if other.count == 0:
            return
        total = self.count + other.count
        shift = other.mean - self.mean
        self.scatter += other.scatter
        self.scatter += np.outer(shift, shift * (self.count * other.count / total))
        self.mean = self.mean + shift * (other.count / total)
        self.count = total

    def gaussian(self) -> Gaussian:
        """Mean and unbiased covariance (N - 1), as `np.cov` has it.

        Raises:
          ValueError: fewer than two features.
        """
        if self.count < 2:
            raise ValueError(f"a covariance needs two features, not {self.count}")
        return Gaussian(self.mean, self.scatter / (self.count - 1))


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """|μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁Σ₂)^½), in the features' unit squared; at least 0.

    Covariances may be singular, as those of fewer features than dimensions are.

    Raises:
      ValueError: shapes that do not fit, or a number that is not finite.
    """
    for mean, covariance in (a, b):
        if mean.shape != a.mean.shape or covariance.shape != 2 * a.mean.shape:
            raise ValueError(f"mean {mean.shape} and covariance {covariance.shape} do not fit")
        if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
            raise ValueError("mean or covariance is not finite")
    shift = a.mean - b.mean
    traces = np.trace(a.covariance) + np.trace(b.covariance)
    root = _trace_of_root(a.covariance, b.covariance)
    return max(0.0, float(shift @ shift + traces - 2 * root))


def _trace_of_root(a: np.ndarray, b: np.ndarray) -> float:
    """tr((AB)^½) = Σ √λᵢ(A^½ B A^½), where a factor A = FFᵀ does in place of A^½.

    Were F from eigenvectors, λ would be wrong by the rounding error ε of the largest one, and √λ by
    √ε in each of perhaps a thousand directions without variance: 1e-5 for equal sets. A pivoted
    Cholesky factor leaves these out, and its columns get smaller from first to last, so that
    rounding errors of FᵀBF do too, and `eigvalsh`, from the lower triangle, keeps small λ.
    """
    product = _factor(a).T @ _factor(b)
    if product.shape[0] > product.shape[1]:  # the smaller rank, for the same reason
        product = product.T
    if product.size == 0:
        return 0.0
    eigenvalues = linalg.eigvalsh(product @ product.T, lower=True)
    return float(np.sum(np.sqrt(np.maximum(eigenvalues, 0))))


def _factor(covariance: np.ndarray) -> np.ndarray:
    """F `[d, rank]` with FFᵀ the covariance, up to d · 1e-16 of its largest variance."""
    lower, pivots, rank, _ = linalg.lapack.dpstrf(covariance, lower=1)
    factor = np.empty((len(covariance), rank))
    factor[pivots - 1] = np.tril(lower)[:, :rank]
    return factor
