"""ε-VAE: Denoising as Visual Decoding (Zhao et al., ICML 2025), in JAX and Flax."""

__version__ = "0.1.0"


def restore(workdir: str, step: int | None = None, space: int = 1):
    """The trained autoencoder of a run; see `epsilon_vae.inference.autoencoder.restore`."""
    # Imported here so that a module of the package alone imports in a second.
    from epsilon_vae.inference import autoencoder

    return autoencoder.restore(workdir, step, space)
