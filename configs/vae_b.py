"""VAE B of the paper's Table 8: `vae.py:b`, of f 16; `vae_b.py:8` is of f 8."""

from configs import common, vae

get_config = common.variant(vae.get_config, "b")
