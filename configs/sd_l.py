"""ε-VAE L, 128 px: `sd.py:l`, of f 8; `sd_l.py:16` is `sd.py:l,f=16`."""

from configs import common, sd

get_config = common.variant(sd.get_config, "l")
