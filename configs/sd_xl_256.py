"""ε-VAE XL, second stage: `sd.py:xl,resolution=256`; `sd_xl_256.py:16` is of f 16."""

from configs import common, sd

get_config = common.variant(sd.get_config, "xl", resolution=256)
