"""The Inception Score against a plain NumPy version."""

import numpy as np
import pytest

from epsilon_vae.metrics.inception_score import InceptionScore


def plain_inception_score(logits: np.ndarray, splits: int) -> tuple[float, float]:
    """As torch-fidelity has it, without its shuffle."""
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    scores = []
    for s in range(splits):
        part = probabilities[s * len(logits) // splits : (s + 1) * len(logits) // splits]
        divergence = part * (np.log(part) - np.log(part.mean(axis=0)))
        scores.append(np.exp(divergence.sum(axis=1).mean()))
    return float(np.mean(scores)), float(np.std(scores))


def score_of(logits: np.ndarray, batch_size: int, splits: int = 10) -> tuple[float, float]:
    score = InceptionScore(*logits.shape, splits)
    for start in range(0, len(logits), batch_size):
        score.update(logits[start : start + batch_size])
    return score.result()


@pytest.fixture(scope="module")
def logits() -> np.ndarray:
    return 2 * np.random.default_rng(0).normal(size=(203, 1008))


@pytest.mark.parametrize("splits", [1, 10])
def test_equals_numpy(logits, splits):
    np.testing.assert_allclose(
        score_of(logits, 64, splits), plain_inception_score(logits, splits), rtol=1e-10
    )


@pytest.mark.parametrize("batch_size", [1, 7, 203])
def test_batch_size_does_not_matter(logits, batch_size):
    np.testing.assert_allclose(score_of(logits, batch_size), score_of(logits, 64), rtol=1e-13)


def test_sure_and_evenly_spread_is_the_number_of_classes():
    logits = np.where(np.tile(np.eye(5), (20, 1)) > 0, 1000.0, 0.0)
    np.testing.assert_allclose(score_of(logits, 8), (5, 0), atol=1e-12)


def test_images_of_one_class_score_one():
    np.testing.assert_allclose(score_of(np.tile([3.0, 1, 0], (20, 1)), 8), (1, 0), atol=1e-12)


def test_refuses(logits):
    with pytest.raises(ValueError, match="9 images are too few"):
        InceptionScore(9)
    score = InceptionScore(20)
    score.update(logits[:15])
    with pytest.raises(ValueError, match="15 of 20"):
        score.result()
    with pytest.raises(ValueError, match="more than 20"):
        score.update(logits[:6])
    with pytest.raises(ValueError, match="not \\[B, 1008\\]"):
        score.update(logits[:5, :1000])
    with pytest.raises(ValueError, match="not finite"):
        score.update(np.full((5, 1008), np.inf))
    score.update(logits[15:20])
    np.testing.assert_allclose(score.result(), score_of(logits[:20], 64), rtol=1e-13)
