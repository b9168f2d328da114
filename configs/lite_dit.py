"""ε-VAE with a DiT decoder (paper, Figure 2), lite encoder, f 16, 128 px: `lite_dit.py:b` is DiT-B.

Sizes s, b, l, xl; a token is 4 × 4 pixels, or 8 × 8 with --config.model.decoder.patch=8.
"""

from configs import common


def get_config(size: str = "b"):
    """Trained from scratch."""
    return common.dit_decoder(size)
