"""ε-VAE L, second stage: `sd.py:l,resolution=256`; `sd_l_256.py:16` is of f 16."""

from configs import common, sd

get_config = common.variant(sd.get_config, "l", resolution=256)
