"""ε-VAE H with the lite encoder: `lite.py:h`."""

from configs import common, lite

get_config = common.variant(lite.get_config, "h")
