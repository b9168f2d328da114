"""LlamaGen's tokenizer (Sun et al. 2024): VQ-16 of 71.9 M, or VQ-8 of 70.1 M.

`llamagen.py:F`: f 16 (the default) or 8.

Command: `python -m epsilon_vae.main --config=configs/llamagen.py --workdir=DIR
--config.data.source=array_record --config.data.path=IMAGENET`

ImageNet rFID at 256 px (paper, Table 2): f 16 2.19, f 8 0.59. Ours are not trained yet.
"""

from configs import common


def get_config(arguments: str = ""):
    """Trained from scratch."""
    return common.llamagen(*common.read_arguments("llamagen", arguments, f=16))
