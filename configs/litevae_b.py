"""LiteVAE B: `litevae.py:b`."""

from configs import common, litevae

get_config = common.variant(litevae.get_config, "b")
