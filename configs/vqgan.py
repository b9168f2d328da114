"""VQGAN (Esser et al. 2021): 16384 codes of 256 channels.

`vqgan.py:F`: f 16 (the default) or 8; `--config.model.bottleneck.num_codes=1024` is its smaller
codebook.

Command: `python -m epsilon_vae.main --config=configs/vqgan.py --workdir=DIR
--config.data.source=array_record --config.data.path=IMAGENET`

ImageNet rFID at 256 px (paper, Table 2): f 16 4.99, f 8 1.19. Ours are not trained yet.
"""

from configs import common


def get_config(arguments: str = ""):
    """Trained from scratch."""
    return common.vqgan(*common.read_arguments("vqgan", arguments, f=16))
