"""VAE L of the paper's Table 8: `vae.py:l`, of f 16; `vae_l.py:8` is of f 8."""

from configs import common, vae

get_config = common.variant(vae.get_config, "l")
