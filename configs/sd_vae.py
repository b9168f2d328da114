"""SD-VAE (Rombach et al. 2022): latent-diffusion's autoencoder with Gaussian latents, 83.7 M.

`sd_vae.py:F`: f 8 (the default), 16 or 32. Its public training is at 256 px; data, batch and rate
here are the ε-VAE's, to compare with.

Command: `python -m epsilon_vae.main --config=configs/sd_vae.py --workdir=DIR
--config.data.source=array_record --config.data.path=IMAGENET`

ImageNet rFID (paper), n_z 4: f 8 4.54 at 128 px (Table 1), 0.74 at 256 px; f 16 2.93 at 256 px
(Table 2). Ours are not trained yet.
"""

from configs import common


def get_config(arguments: str = ""):
    """Trained from scratch."""
    return common.sd_vae(*common.read_arguments("sd_vae", arguments, f=8))
