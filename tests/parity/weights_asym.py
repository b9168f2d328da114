"""What `weights.to_diffusers` leaves to rename for diffusers' `MaskConditionDecoder`."""

import re

import numpy as np


def to_mask_condition(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """An `SDDecoder`'s state dict or gradients with the names of its `KnownFeatures` there."""
    pattern, name = r"^known\.conv(\d+)", r"condition_encoder.layers.\1"
    return {re.sub(pattern, name, key): value for key, value in state.items()}
