"""ε-VAE M, second stage: `sd.py:m,resolution=256`; `sd_m_256.py:16` is of f 16."""

from configs import common, sd

get_config = common.variant(sd.get_config, "m", resolution=256)
