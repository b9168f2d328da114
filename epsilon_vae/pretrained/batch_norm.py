"""Batch norm of trained networks, folded into the convolution before it."""

from collections.abc import Mapping

import numpy as np


def fold_batch_norm(
    state: Mapping[str, np.ndarray], convolution: str, *, norm: str, eps: float
) -> dict[str, np.ndarray]:
    """One layer that does what PyTorch's convolution, without a bias, and batch norm do.

    y = (w * x - mean) / sqrt(var + eps) * gamma + beta is a convolution with kernel w * scale and
    bias beta - mean * scale, where scale = gamma / sqrt(var + eps). Computed in float64.

    Args:
      state: a state dict; weights are `[out, in, height, width]`.
      convolution: its name in `state`, as 'stem.conv'.
      norm: the batch norm's name in `state`.
      eps: of the batch norm.

    Returns:
      float32 'kernel' `[height, width, in, out]` and 'bias' `[out]`.

    Raises:
      ValueError: `state` lacks one of them.
    """
    try:
        weight = state[f"{convolution}.weight"].astype(np.float64)
        gamma, beta, mean, var = (
            state[f"{norm}.{name}"].astype(np.float64)
            for name in ("weight", "bias", "running_mean", "running_var")
        )
    except KeyError as error:
        raise ValueError(f"it has no {error}") from None
    scale = gamma / np.sqrt(var + eps)
    kernel = weight.transpose(2, 3, 1, 0) * scale
    return {"kernel": kernel.astype(np.float32), "bias": (beta - mean * scale).astype(np.float32)}
