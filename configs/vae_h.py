"""VAE H of the paper's Table 8: `vae.py:h`, of f 16; `vae_h.py:8` is of f 8."""

from configs import common, vae

get_config = common.variant(vae.get_config, "h")
