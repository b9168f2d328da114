"""All commands under one name: `epsilon-vae COMMAND`, or `python -m epsilon_vae COMMAND`."""

import difflib
import runpy
import sys

from epsilon_vae import __version__

# Name → module, and what it does.
COMMANDS = {
    "train": ("main", "train an ε-VAE, or a latent diffusion model; run it again to resume"),
    "runs": ("runs", "show a table of runs"),
    "reconstruct": ("reconstruct", "reconstruct pictures"),
    "evaluate": ("evaluate", "measure reconstructions, or generated images"),
    "encode": ("encode", "make a data set of latents"),
    "generate": ("generate", "generate images"),
    "study": ("study", "train and compare the variants of a study"),
    "compile": ("compile", "say whether a config fits a TPU slice, without one"),
    "convert": ("convert", "bring other projects' weights in, or a run's weights out"),
    "export": ("export", "export encoder and decoder for JAX or ONNX"),
    "demo": ("demo", "serve a page to try a model on"),
    "prepare": ("data.prepare", "make shards of a data set"),
    "check": ("data.check", "look at images before they are trained on"),
    "pretrained": ("pretrained", "list and get the weights that metrics and losses need"),
}


def usage() -> str:
    """What there is."""
    lines = [f"  {name:12} {words}" for name, (_, words) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: epsilon-vae COMMAND [--FLAG=VALUE …]",
            "",
            *lines,
            "",
            "epsilon-vae COMMAND --help lists the flags of one, epsilon-vae --version the version.",
        ]
    )


def main() -> None:
    """Runs a command as `python -m epsilon_vae.MODULE` does; ends with 2 if there is none."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h", "help"):
        print(usage())
    elif name == "--version":
        print(f"epsilon-vae {__version__}")
    elif name in COMMANDS:
        module = f"epsilon_vae.{COMMANDS[name][0]}"
        sys.argv = [module, *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        near = difflib.get_close_matches(name, COMMANDS, n=2)
        meant = f"did you mean {' or '.join(near)}? All are" if near else "there are"
        print(
            f"epsilon_vae: {name!r}: no such command; {meant} {', '.join(COMMANDS)}",
            file=sys.stderr,
        )
        sys.exit(2)


if __name__ == "__main__":
    main()
