"""LiteVAE S (Sadat et al. 2024), whose encoder has 1.0 M parameters; SD-VAE's decoder, f 8.

n_z 12, 128 px: rFID 1.11 on ImageNet (LiteVAE's Table 2), with `--config.model.encoder.n_z=12`.
"""

from configs import common


def get_config():
    """Trained from scratch."""
    return common.litevae("s")
