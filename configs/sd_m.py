"""ε-VAE M, 128 px: `sd.py:m`, of f 8; `sd_m.py:16` is `sd.py:m,f=16`."""

from configs import common, sd

get_config = common.variant(sd.get_config, "m")
