"""The Fréchet distance over 2048 features, beside the form with scipy's `sqrtm`.

`python -m benchmarks.frechet` computes the distance of two sets of 5000 correlated features both
ways, in turn, three rounds, and prints the medians of seconds and of their ratio, and how far the
values are apart. pytorch-fid has the other form.
"""

import statistics
import time
from collections.abc import Callable

import numpy as np
from scipy import linalg

from epsilon_vae.metrics.frechet import FeatureStatistics, Gaussian, frechet_distance

DIM, COUNT, ROUNDS = 2048, 5000, 3


def correlated_gaussian(rng: np.random.Generator, mixing: np.ndarray) -> Gaussian:
    """Statistics of features at least 0, as Inception's are."""
    features = FeatureStatistics.empty(DIM)
    features.update(np.maximum(rng.normal(size=(COUNT, DIM)) @ mixing, 0))
    return features.gaussian()


def sqrtm_distance(a: Gaussian, b: Gaussian) -> float:
    """pytorch-fid's form."""
    root = linalg.sqrtm(a.covariance @ b.covariance)
    shift = a.mean - b.mean
    return float(shift @ shift + np.trace(a.covariance + b.covariance) - 2 * np.trace(root.real))


def measure(distance: Callable[[Gaussian, Gaussian], float], *pair: Gaussian) -> tuple:
    """Its value and seconds."""
    start = time.monotonic()
    value = distance(*pair)
    return value, time.monotonic() - start


def main() -> None:
    """Prints seconds, ratio and values."""
    rng = np.random.default_rng(0)
    directions = np.linalg.qr(rng.normal(size=(DIM, DIM)))[0]
    mixing = np.sqrt(20 / np.arange(1, DIM + 1))[:, None] * directions
    pair = [correlated_gaussian(rng, mixing * scale) for scale in (1.0, 1.1)]
    ours, theirs = [], []
    for _ in range(ROUNDS):
        value, seconds = measure(frechet_distance, *pair)
        ours.append(seconds)
        reference, seconds = measure(sqrtm_distance, *pair)
        theirs.append(seconds)
        print(f"ours {ours[-1]:.2f} s, sqrtm {theirs[-1]:.2f} s", flush=True)
    ratio = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
    print(
        f"{DIM} features, median of {ROUNDS} rounds: ours {statistics.median(ours):.2f} s, ", end=""
    )
    print(f"sqrtm {statistics.median(theirs):.2f} s, ratio {ratio:.1f}")
    print(f"distance {value:.6f}, apart by {abs(value / reference - 1):.1e} of it")
    print(f"equal sets: {frechet_distance(pair[0], pair[0]):.1e}")


if __name__ == "__main__":
    main()
