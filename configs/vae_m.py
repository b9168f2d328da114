"""VAE M of the paper's Table 8: `vae.py:m`, of f 16; `vae_m.py:8` is of f 8."""

from configs import common, vae

get_config = common.variant(vae.get_config, "m")
