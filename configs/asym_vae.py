"""Asym-VAE (Zhu et al. 2023): SD-VAE's encoder, frozen, and a larger decoder.

`asym_vae.py:SIZE`: l (the default), a decoder of 160 M, or xl, of 372 M: 1.5 and 2 times as wide as
SD-VAE's, and deeper. The encoder is that of a run of `sd_vae.py`: `--config.init_from=WORKDIR`.

Command: `python -m epsilon_vae.main --config=configs/asym_vae.py --workdir=DIR
--config.data.source=array_record --config.data.path=IMAGENET --config.init_from=WORKDIR`

The paper has no rFID of it. Ours are not trained yet.
"""

from configs import common


def get_config(arguments: str = ""):
    """The decoder alone is trained."""
    return common.asym_vae(*common.read_arguments("asym_vae", arguments, size="l"))
