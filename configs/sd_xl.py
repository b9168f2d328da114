"""ε-VAE XL, decoder 140.6 M, 128 px: rFID 1.34 on ImageNet (paper, Table 1, f 8).

`sd_xl.py` is f 8, `sd_xl.py:16` and `sd_xl.py:32` the higher compressions.
"""

from configs import common


def get_config(f: str = "8"):
    """Trained from scratch."""
    return common.sd("xl", int(f))
