"""ε-VAE XL, lite encoder, f 16, 128 px: rFID 4.18 on ImageNet (paper, Table 8)."""

from configs import common


def get_config():
    """Trained from scratch."""
    return common.lite("xl")
