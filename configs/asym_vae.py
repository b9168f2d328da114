"""Asym-VAE (Zhu et al. 2023): SD-VAE's encoder, frozen, and a decoder of 160 M or, `:xl`, 372 M.

The encoder is that of a run of `sd_vae.py`: `--config.init_from=WORKDIR`.
"""

from configs import common


def get_config(size: str = "l"):
    """`l` and `xl` are 1.5 and 2 times as wide as SD-VAE's decoder, and deeper."""
    return common.asym_vae(size)
