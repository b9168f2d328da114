"""VAE L, the deterministic decoder of 40.5 M that the paper compares with.

128 px: rFID 8.49 on ImageNet (paper, Table 8).
"""

from configs import common


def get_config(f: str = "16"):
    """Trained from scratch."""
    return common.vae("l", int(f))
