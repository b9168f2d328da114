"""OmniTokenizer's VAE (Wang et al. 2024) for images: transformers, Gaussian latents, 46.4 M.

f 8, n_z 8. Its public training is of images and videos at several sizes around 256 px, in three
stages, with feature matching; data, batch, rate and GAN here are SD-VAE's, to compare with. The
weights of L1, LPIPS and KL divergence, to each other, are its own.

Command: `python -m epsilon_vae.main --config=configs/omni_vae.py --workdir=DIR
--config.data.source=array_record --config.data.path=IMAGENET`

The paper has no rFID of it. Ours is not trained yet.
"""

from configs import common


def get_config():
    """Trained from scratch."""
    return common.omni_vae()
