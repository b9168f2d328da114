"""VAE XL, the deterministic decoder of 65.3 M that the paper compares with.

128 px: rFID 7.58 on ImageNet (paper, Table 8).
"""

from configs import common


def get_config(f: str = "16"):
    """Trained from scratch."""
    return common.vae("xl", int(f))
