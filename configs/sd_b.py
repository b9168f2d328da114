"""ε-VAE B, decoder 20.6 M, 128 px: rFID 1.94 on ImageNet (paper, Table 1, f 8).

`sd_b.py` is f 8, `sd_b.py:16` and `sd_b.py:32` the higher compressions.
"""

from configs import common


def get_config(f: str = "8"):
    """Trained from scratch."""
    return common.sd("b", int(f))
