"""ε-VAE H, decoder 355.6 M, 128 px: rFID 1.00 on ImageNet (paper, Table 1, f 8).

`sd_h.py` is f 8, `sd_h.py:16` and `sd_h.py:32` the higher compressions.
"""

from configs import common


def get_config(f: str = "8"):
    """Trained from scratch."""
    return common.sd("h", int(f))
