"""ε-VAE H, 128 px: `sd.py:h`, of f 8; `sd_h.py:16` is `sd.py:h,f=16`."""

from configs import common, sd

get_config = common.variant(sd.get_config, "h")
