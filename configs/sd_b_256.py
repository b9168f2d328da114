"""ε-VAE B, second stage at 256 px: rFID 0.52 on ImageNet (paper, Table 1, f 8).

Starts from a run of `sd_b.py`: `--config.init_from=WORKDIR`.
"""

from configs import common


def get_config(f: str = "8"):
    """Fine-tuned from the 128 px model."""
    return common.finetuned(common.sd("b", int(f)), 256)
