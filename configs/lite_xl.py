"""ε-VAE XL with the lite encoder: `lite.py:xl`."""

from configs import common, lite

get_config = common.variant(lite.get_config, "xl")
