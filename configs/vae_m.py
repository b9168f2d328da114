"""VAE M, the deterministic decoder of 22.8 M that the paper compares with.

128 px: rFID 9.26 on ImageNet (paper, Table 8).
"""

from configs import common


def get_config(f: str = "16"):
    """Trained from scratch."""
    return common.vae("m", int(f))
