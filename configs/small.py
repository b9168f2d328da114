"""A small ε-VAE for whole photos on a CPU: trained on 64 px crops, f 8, n_z 16.

Command: `python -m epsilon_vae.main --config=configs/small.py --workdir=DIR
--config.data.path=PHOTOS`

Hardware: two CPU cores, 3.5 hours where nothing else uses them. What 13,000 steps have reached is
in `epsilon_vae/released/small/README.md`.
"""

from configs import common


def get_config():
    """A convolutional encoder and a decoder of five levels, for whole photos on a CPU."""
    config = common.get_config()
    config.num_steps = 20_000
    config.batch_size = 8
    config.dtype = "float32"
    config.data.source = "folder"
    config.data.path = "data/photos"
    config.data.resolution = 64
    config.data.crop = "random_resized"
    config.model.encoder.name = "small"
    config.model.encoder.n_z = 16
    config.model.decoder.size = "small"
    # As in tiny.py: without it reconstructions of so small a network have colored noise.
    config.model.decoder.input_skip = True
    # As in tiny.py: one step, from t = 1, would exaggerate contrast.
    config.flow.time_sampling = "logit_normal_start"
    config.model.discriminator.channels = 32
    # As in tiny.py: with the paper's GAN, its gradient stays near nothing.
    config.model.discriminator.context_scale = 0.25
    config.loss.gan = "relativistic"
    config.loss.r1_weight = 0.3
    config.loss.lpips_net = "alexnet"
    # The decoder learns by the other losses first.
    config.loss.adv_start_step = 1000
    config.loss.adv_ramp_steps = 1000
    config.optim.lr = 1e-3
    config.optim.b1 = 0.9
    config.optim.warmup_steps = 200
    config.optim.discriminator_lr = 2e-4
    config.optim.discriminator_b1 = 0.9
    config.optim.discriminator_warmup_steps = 10
    config.checkpoint.every_steps = 200
    config.checkpoint.permanent_every_steps = 5000
    config.eval.every_steps = 500
    config.log.every_steps = 20
    return config
