"""DiT-XL/2 on an autoencoder's latents of 256 px, by class (paper, Table 4).

`dit_xl_2.py:F`: f 8 (the default), 16 or 32 of the autoencoder.

Command: `python -m epsilon_vae.main --config=configs/dit_xl_2.py --workdir=DIR
--config.data.path=LATENTS --config.autoencoder.workdir=DIR`, on what `python -m epsilon_vae.encode`
wrote.

Hardware: fits 16 TPU v5e chips; measured by `python -m epsilon_vae.compile
--config=configs/dit_xl_2.py --topology=v5e:4x4`.

ImageNet FID without guidance, on latents of ε-VAE M and H (paper, Table 4): f 8 9.39 and 8.85, f 16
10.68 and 9.72, f 32 15.98 and 14.26. Ours are not trained yet.
"""

from configs import common, latent_diffusion


def get_config(arguments: str = ""):
    """DDPM on latents of downsampling factor f."""
    (f,) = common.read_arguments("dit_xl_2", arguments, f=8)
    return latent_diffusion.dit("xl", patch=2, f=f)
