"""VQGAN (Esser et al. 2021): codes of 256, f 16 or 8.

f 16: rFID 4.99, f 8: 1.19 on ImageNet at 256 px (paper, Table 2). `vqgan.py:8` is f 8, and
`--config.model.bottleneck.num_codes=1024` its smaller codebook.
"""

from configs import common


def get_config(f: str = "16"):
    """Trained from scratch."""
    return common.vqgan(int(f))
