"""LiteVAE B (Sadat et al. 2024), whose encoder has 6.8 M parameters; SD-VAE's decoder, f 8.

n_z 4, 128 px: rFID 4.40 on ImageNet (paper, Table 1; LiteVAE's own says that it is of this size).
n_z 12, 128 px: rFID 0.94 on ImageNet (LiteVAE's Table 2), with `--config.model.encoder.n_z=12`.
"""

from configs import common


def get_config():
    """Trained from scratch."""
    return common.litevae("b")
