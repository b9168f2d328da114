"""LiteVAE (Sadat et al. 2024): an encoder of wavelets; SD-VAE's decoder, losses and f 8.

`litevae.py:SIZE`: size s, b (the default), m or l of the encoder.

Command: `python -m epsilon_vae.main --config=configs/litevae.py:b --workdir=DIR
--config.data.source=array_record --config.data.path=IMAGENET`

ImageNet rFID at 128 px: b with n_z 4, 4.40 (paper, Table 1; LiteVAE's own says that it is of this
size). With `--config.model.encoder.n_z=12`, by LiteVAE's Table 2, as below. Ours are not trained
yet.

    size  encoder  n_z 12
    s     1.0 M    1.11
    b     6.8 M    0.94
    m     32.8 M   0.79
    l     41.4 M   0.74
"""

from configs import common


def get_config(arguments: str = ""):
    """Trained from scratch."""
    return common.litevae(*common.read_arguments("litevae", arguments, size="b"))
