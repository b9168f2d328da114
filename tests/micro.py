"""The smallest ε-VAE with all its parts and losses, for tests of all but the networks."""

from configs import tiny


def get_config():
    """`tiny` with networks that compile in two seconds, at 32 px."""
    config = tiny.get_config()
    config.batch_size = 4
    config.data.resolution = 32  # the least that LPIPS takes
    config.model.encoder.name = "micro"
    config.model.decoder.size = "micro"
    config.model.discriminator.channels = 16
    # All losses from the start, and the paper's GAN: a relativistic loss never moves D's last bias.
    config.loss.adv_start_step = config.loss.adv_ramp_steps = 0
    config.loss.gan = "non_saturating"
    config.optim.warmup_steps = config.optim.discriminator_warmup_steps = 0
    config.log.every_steps = 1
    config.eval.every_steps = 100
    return config
