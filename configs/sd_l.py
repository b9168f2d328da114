"""ε-VAE L, decoder 89.0 M, 128 px: rFID 1.47 on ImageNet (paper, Table 1, f 8).

`sd_l.py` is f 8, `sd_l.py:16` and `sd_l.py:32` the higher compressions.
"""

from configs import common


def get_config(f: str = "8"):
    """Trained from scratch."""
    return common.sd("l", int(f))
