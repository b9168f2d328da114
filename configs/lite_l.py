"""ε-VAE L with the lite encoder: `lite.py:l`."""

from configs import common, lite

get_config = common.variant(lite.get_config, "l")
