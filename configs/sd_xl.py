"""ε-VAE XL, 128 px: `sd.py:xl`, of f 8; `sd_xl.py:16` is `sd.py:xl,f=16`."""

from configs import common, sd

get_config = common.variant(sd.get_config, "xl")
