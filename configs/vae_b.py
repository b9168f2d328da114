"""VAE B, the deterministic decoder of 10.1 M that the paper compares with.

128 px: rFID 11.15 on ImageNet (paper, Table 8).
"""

from configs import common


def get_config(f: str = "16"):
    """Trained from scratch."""
    return common.vae("b", int(f))
