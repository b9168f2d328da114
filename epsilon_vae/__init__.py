"""ε-VAE: Denoising as Visual Decoding (Zhao et al., ICML 2025), in JAX and Flax."""

import signal
import sys

__version__ = "0.1.0"

# A command is being started, `python -m epsilon_vae.…`, and imports for seconds. KeyboardInterrupt
# would be swallowed by JAX's callback of the garbage collector: Ctrl-C ends the process instead,
# until `command_line.exit_codes`.
_is_command = sys.argv[:1] == ["-m"] and any(x.startswith("epsilon_vae.") for x in sys.orig_argv)
if _is_command and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def restore(workdir: str, step: int | None = None, space: int = 1):
    """Restores the trained autoencoder of a run, with its EMA parameters.

    Args:
      workdir: of the run, as given to `epsilon_vae.main`.
      step: of the checkpoint; None for the newest.
      space: devices that the rows of an image are spread over, for images too large for one.

    Returns:
      An `epsilon_vae.inference.autoencoder.Autoencoder`, with `encode`, `decode` and `reconstruct`.

    Raises:
      CheckpointError: no checkpoint there, or not of this step.
      ConfigError: fewer devices than `space`, or the run of a latent diffusion model.
    """
    # Imported here so that a module of the package alone imports in a second.
    from epsilon_vae.inference import autoencoder

    return autoencoder.restore(workdir, step, space)


def from_pretrained(name: str, *, revision: str | None = None, space: int = 1):
    """Loads a trained autoencoder from a folder of `save_pretrained`, or from the Hugging Face Hub.

    Args:
      name: of the folder; or, where there is no such folder, of a repository, as OWNER/NAME, which
        is fetched by `huggingface_hub` (`pip install -e '.[hub]'`).
      revision: of the repository: a branch, tag or commit; None for its newest.
      space: devices that the rows of an image are spread over, for images too large for one.

    Returns:
      An `epsilon_vae.inference.autoencoder.Autoencoder`, as `restore` gives it.

    Raises:
      WeightsError: neither is there, or it is broken.
      HubError: the Hub does not give it, or huggingface_hub is not installed.
      ConfigError: fewer devices than `space`, or the config of a latent diffusion model.
    """
    from epsilon_vae.inference import autoencoder

    return autoencoder.from_pretrained(name, revision=revision, space=space)
