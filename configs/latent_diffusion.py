"""Defaults of every latent diffusion model's config: the paper's, on ε-VAE's latents.

Values are the paper's where it says so, else DiT's. `model.latent_diffusion` tells such a config
from an autoencoder's.
"""

import ml_collections

from configs import common


def get_config() -> ml_collections.ConfigDict:
    """DiT-XL/2 on latents of f 8 at 256 px, class-conditional on 1000 classes."""
    shared = common.get_config()
    config = ml_collections.ConfigDict()
    config.seed, config.batch_size, config.dtype = 0, 256, "bfloat16"  # paper
    config.init_from = ""  # workdir of an earlier stage, whose weights to start from
    for section in ("mesh", "checkpoint", "log", "profile"):
        config[section] = shared[section]
    config.num_steps = 1_000_000  # paper
    config.init = ml_collections.ConfigDict()
    config.init.latent_diffusion = "ema"  # or "raw": of the run that init_from names

    config.data = shared.data
    del config.data.val_split
    config.data.source = "latents"  # of epsilon_vae.encode; or images, encoded on the fly
    config.data.resolution = 256  # paper, of the images
    config.autoencoder = ml_collections.ConfigDict()
    config.autoencoder.workdir = ""  # of its run: needed to encode images, and for pictures
    config.autoencoder.f = 8  # paper; or 16, 32
    config.autoencoder.n_z = 4  # paper
    config.autoencoder.nfe = 3  # of its decoder

    config.model = ml_collections.ConfigDict()
    config.model.remat = "none"
    config.model.latent_diffusion = ml_collections.ConfigDict()
    config.model.latent_diffusion.size = "xl"  # paper; or s, b, l
    config.model.latent_diffusion.patch = 2  # paper; or 1, 4
    config.model.latent_diffusion.num_classes = 1000  # 0 is without labels
    config.model.latent_diffusion.learned_sigma = (
        False  # the paper has no bound that would train it
    )

    config.flow = ml_collections.ConfigDict()
    config.flow.process = "ddpm"  # paper; or rectified_flow, with
    config.flow.time_sampling = "whole_steps"  # logit_normal and
    config.flow.spacing = "respaced"  # uniform
    config.flow.nfe = 250  # paper

    config.loss = ml_collections.ConfigDict()
    config.loss.label_dropout = 0.1  # DiT's, for guidance

    config.optim = shared.optim
    for key in [key for key in config.optim if key.startswith("discriminator_")]:
        del config.optim[key]
    config.optim.lr = 1e-4  # paper
    config.optim.b1 = 0.9
    config.optim.warmup_steps = 0
    config.optim.ema_decay = 0.9999

    config.eval = ml_collections.ConfigDict()
    config.eval.every_steps = 50_000
    config.eval.num_images = 16  # of the picture
    config.eval.guidance = 4.0  # of the picture; DiT's
    return config


def dit(size: str, patch: int, f: int) -> ml_collections.ConfigDict:
    """DiT of a size and patch on latents of f 8, 16 or 32."""
    config = get_config()
    config.model.latent_diffusion.size = size
    config.model.latent_diffusion.patch = patch
    config.autoencoder.f = f
    return config


def rectified_flow(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """As SiT (Ma et al. 2024), with the times of Esser et al. 2024."""
    config.flow.process = "rectified_flow"
    config.flow.time_sampling = "logit_normal"
    config.flow.spacing = "uniform"
    return config
