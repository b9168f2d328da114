"""Inception Score (Salimans et al. 2016) of a stream of logits."""

import numpy as np
from scipy.special import entr, softmax


class InceptionScore:
    """exp(E KL(p(y|x) ‖ p(y))) of each of `splits` equal parts of the images, in their order.

    The customary ten parts: image i of N is in part s where ⌊sN/10⌋ ≤ i < ⌊(s+1)N/10⌋. The order
    must be random, since a part that holds only some classes scores low. Images are added one after
    another in float64, so that the batch size does not matter; memory is `[splits, num_classes]`.

    Args:
      num_images: N, of all updates together.
      num_classes: of the logits; TensorFlow's Inception has 1008, as in torch-fidelity.
      splits: parts.

    Raises:
      ValueError: fewer images than parts.
    """

    def __init__(self, num_images: int, num_classes: int = 1008, splits: int = 10):
        if num_images < splits:
            raise ValueError(f"{num_images} images are too few for {splits} parts")
        self._ends = np.arange(1, splits + 1) * num_images // splits
        self._count = 0
        self._probabilities = np.zeros((splits, num_classes))  # sums over images, as is the next
        self._entropies = np.zeros(splits)

    def update(self, logits: np.ndarray) -> None:
        """Adds the next images' logits `[B, num_classes]`.

        Raises:
          ValueError: another shape, more images than there should be, or logits not finite.
        """
        logits = np.asarray(logits, np.float64)
        if logits.ndim != 2 or logits.shape[1] != self._probabilities.shape[1]:
            raise ValueError(f"logits are {logits.shape}, not [B, {self._probabilities.shape[1]}]")
        if self._count + len(logits) > self._ends[-1]:
            raise ValueError(f"more than {self._ends[-1]} images")
        if not np.isfinite(logits).all():
            raise ValueError("logits are not finite")
        part = np.searchsorted(self._ends, self._count + np.arange(len(logits)), side="right")
        probabilities = softmax(logits, axis=1)
        np.add.at(self._probabilities, part, probabilities)
        np.add.at(self._entropies, part, entr(probabilities).sum(axis=1))
        self._count += len(logits)

    def result(self) -> tuple[float, float]:
        """Mean and standard deviation (population) over the parts.

        E KL(p(y|x) ‖ p(y)) is H(p(y)) - E H(p(y|x)): sums suffice.

        Raises:
          ValueError: images are missing.
        """
        if self._count < self._ends[-1]:
            raise ValueError(f"{self._count} of {self._ends[-1]} images")
        sizes = np.diff(self._ends, prepend=0)
        marginal = entr(self._probabilities / sizes[:, None]).sum(axis=1)
        scores = np.exp(marginal - self._entropies / sizes)
        return float(scores.mean()), float(scores.std())
