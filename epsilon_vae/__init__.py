"""ε-VAE: Denoising as Visual Decoding (Zhao et al., ICML 2025), in JAX and Flax.

vae = epsilon_vae.load("small")  # a model that comes with the package; or restore("runs/tiny")
latents = vae.encode("photo.jpg")  # or PIL's images, or arrays: uint8, or float in [-1, 1]
images = vae.decode(latents, steps=3, seed=0)  # float32 in [-1, 1]

`help(epsilon_vae.restore)` tells what it takes, and `help(vae)` what an autoencoder can do.
"""

import signal
import sys

__all__ = ["from_pretrained", "list_models", "load", "restore"]
__version__ = "0.1.0"

# A command is being started, `python -m epsilon_vae.…`, and imports for seconds. KeyboardInterrupt
# would be swallowed by JAX's callback of the garbage collector: Ctrl-C ends the process instead,
# until `command_line.exit_codes`.
_is_command = sys.argv[:1] == ["-m"] and any(x.startswith("epsilon_vae.") for x in sys.orig_argv)
if _is_command and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def __getattr__(name: str):
    # Imported at their first use, so that a module of the package alone imports in a second.
    if name in __all__:
        from epsilon_vae.inference import restoring

        return getattr(restoring, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
