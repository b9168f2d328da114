"""ε-VAE M, decoder 49.3 M, 128 px: rFID 1.58 on ImageNet (paper, Table 1, f 8).

`sd_m.py` is f 8, `sd_m.py:16` and `sd_m.py:32` the higher compressions.
"""

from configs import common


def get_config(f: str = "8"):
    """Trained from scratch."""
    return common.sd("m", int(f))
