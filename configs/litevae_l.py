"""LiteVAE L (Sadat et al. 2024), whose encoder has 41.4 M parameters; SD-VAE's decoder, f 8.

n_z 12, 128 px: rFID 0.74 on ImageNet (LiteVAE's Table 2), with `--config.model.encoder.n_z=12`.
"""

from configs import common


def get_config():
    """Trained from scratch."""
    return common.litevae("l")
