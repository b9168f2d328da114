"""ε-VAE M with the lite encoder: `lite.py:m`."""

from configs import common, lite

get_config = common.variant(lite.get_config, "m")
