"""ε-VAE in the paper's study setup (Tables 5 and 8): lite encoder of 5.9 M, f 16, n_z 8, 128 px.

`lite.py:SIZE`: size b (the default), m, l, xl or h of the ADM decoder.

Command: `python -m epsilon_vae.main --config=configs/lite.py:b --workdir=DIR
--config.data.source=array_record --config.data.path=IMAGENET`

Hardware: TPU v5e pods (paper, which does not say how large).

ImageNet rFID (paper, Table 8), trained at 128 px. Ours are not trained yet.

    size  decoder   128 px  256 px  512 px
    b     20.6 M    6.24    3.90    2.06
    m     49.3 M    5.42    2.79    2.02
    l     89.0 M    4.71    2.60    1.92
    xl    140.6 M   4.18    2.38    1.82
    h     355.6 M   4.04    2.31    1.78
"""

from configs import common


def get_config(arguments: str = ""):
    """Trained from scratch."""
    return common.lite(*common.read_arguments("lite", arguments, size="b"))
