"""ε-VAE H, second stage: `sd.py:h,resolution=256`; `sd_h_256.py:16` is of f 16."""

from configs import common, sd

get_config = common.variant(sd.get_config, "h", resolution=256)
