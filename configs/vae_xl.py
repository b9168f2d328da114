"""VAE XL of the paper's Table 8: `vae.py:xl`, of f 16; `vae_xl.py:8` is of f 8."""

from configs import common, vae

get_config = common.variant(vae.get_config, "xl")
