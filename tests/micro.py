"""The smallest ε-VAE with all its parts and losses, for tests of all but the networks."""

from configs import tiny


def get_config():
    """`tiny` with networks that compile in two seconds, at 32 px."""
    config = tiny.get_config()
    config.batch_size = 4
    config.data.resolution = 32  # the least that LPIPS takes
    config.model.encoder.name = "micro"
    config.model.decoder.size = "micro"
    # As the paper's; those parts have tests of their own.
    config.model.decoder.input_skip = False
    config.data.permute_colors = False
    config.model.discriminator.channels = 16
    # All losses from the start, and the paper's GAN: a relativistic loss never moves D's last bias.
    config.loss.adv_start_step = config.loss.adv_ramp_steps = 0
    config.loss.gan = "non_saturating"
    config.optim.warmup_steps = config.optim.discriminator_warmup_steps = 0
    # After six steps images depend on the latents, and the moving average is far from both ends.
    config.optim.lr = 5e-3
    config.optim.ema_decay = 0.8
    config.log.every_steps = 1
    config.eval.every_steps = 100
    return config
