"""ε-VAE B with the lite encoder: `lite.py:b`."""

from configs import common, lite

get_config = common.variant(lite.get_config, "b")
