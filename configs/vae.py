"""The VAE that the paper compares with (Table 8): lite encoder, a deterministic decoder, 128 px.

`vae.py:SIZE,f=F`: size b (the default), m, l, xl or h; f 16, or 4, 8 and 32.

Command: `python -m epsilon_vae.main --config=configs/vae.py:b --workdir=DIR
--config.data.source=array_record --config.data.path=IMAGENET`

Hardware: TPU v5e pods (paper, which does not say how large).

ImageNet rFID at f 16 (paper, Table 8), trained at 128 px. Ours are not trained yet.

    size  decoder   128 px  256 px  512 px
    b     10.1 M    11.15   5.74    3.69
    m     22.8 M    9.26    4.63    2.69
    l     40.5 M    8.49    4.78    2.78
    xl    65.3 M    7.58    4.42    2.41
    h     161.8 M   7.12    4.29    2.37
"""

from configs import common


def get_config(arguments: str = ""):
    """Trained from scratch."""
    return common.vae(*common.read_arguments("vae", arguments, size="b", f=16))
