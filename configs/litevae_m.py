"""LiteVAE M: `litevae.py:m`."""

from configs import common, litevae

get_config = common.variant(litevae.get_config, "m")
