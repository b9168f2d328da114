"""LiteVAE S: `litevae.py:s`."""

from configs import common, litevae

get_config = common.variant(litevae.get_config, "s")
