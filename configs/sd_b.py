"""ε-VAE B, 128 px: `sd.py:b`, of f 8; `sd_b.py:16` is `sd.py:b,f=16`."""

from configs import common, sd

get_config = common.variant(sd.get_config, "b")
