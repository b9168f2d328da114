"""A laptop's latent diffusion: rectified flow on latents of `tiny`, no labels, two CPU cores.

Command: `python -m epsilon_vae.main --config=configs/dit_tiny.py --workdir=DIR
--config.data.path=LATENTS --config.autoencoder.workdir=RUN_THAT_MADE_THEM`

Hardware: 16 minutes of two busy CPU cores. How good its samples are is measured in the docs, under
Results, Generation.
"""

from configs import latent_diffusion


def get_config():
    """Latents of 16 × 16 × 8, of 64 px; a transformer of 64 tokens."""
    config = latent_diffusion.rectified_flow(latent_diffusion.dit("tiny", patch=2, f=4))
    config.num_steps = 4000
    config.batch_size = 16
    config.dtype = "float32"
    config.data.resolution = 64
    config.autoencoder.n_z = 8
    config.model.latent_diffusion.num_classes = 0  # the embedded photos have none
    config.flow.nfe = 25
    config.loss.label_dropout = 0.0
    config.optim.lr = 1e-3
    config.optim.warmup_steps = 50
    config.optim.ema_decay = 0.998
    config.checkpoint.every_steps = 1000
    config.checkpoint.permanent_every_steps = 0
    config.eval.every_steps = 1000
    config.eval.guidance = 1.0
    config.log.every_steps = 100
    return config
