"""ε-VAE B, second stage: `sd.py:b,resolution=256`; `sd_b_256.py:16` is of f 16."""

from configs import common, sd

get_config = common.variant(sd.get_config, "b", resolution=256)
