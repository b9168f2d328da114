"""LiteVAE L: `litevae.py:l`."""

from configs import common, litevae

get_config = common.variant(litevae.get_config, "l")
