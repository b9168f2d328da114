"""SD-VAE (Rombach et al. 2022): latent-diffusion's autoencoder with Gaussian latents, 83.7 M.

f 8, n_z 4: rFID 0.74 on ImageNet at 256 px (paper, Table 2), 4.54 at 128 px (Table 1). Its public
training is at 256 px; data, batch and rate here are the ε-VAE's, to compare with. `sd_vae.py:16` is
f 16.
"""

from configs import common


def get_config(f: str = "8"):
    """Trained from scratch."""
    return common.sd_vae(int(f))
