"""A page to try a model on: `python -m epsilon_vae.demo --workdir=RUN`.

Drop a photo, choose steps and seed, and see original, reconstruction and difference. The page is
served to this machine alone. Exit codes: 0 done; 1 failed; 2 the command cannot run.
"""

from __future__ import annotations

import importlib.util
import os
import pathlib
import time
from collections.abc import Sequence

import numpy as np
from absl import app, flags, logging
from etils import epy
from PIL import Image

from epsilon_vae.command_line import UsageError, check_folder, exit_codes, parse_flags
from epsilon_vae.data.decode import read_image
from epsilon_vae.errors import UserError, reason

with epy.lazy_imports():  # of what takes seconds, and is not needed for flags
    import gradio  # an extra

    from epsilon_vae.inference import autoencoder
    from epsilon_vae.metrics import psnr_ssim

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a training run.")
STEP = flags.DEFINE_integer("checkpoint_step", None, "Checkpoint to use; the newest by default.")
PORT = flags.DEFINE_integer("port", 7860, "Where the page is, on this machine.", 1, 65535)

DIFFERENCE_GAIN = 4


def reconstruct(
    vae: autoencoder.Autoencoder, path: str, *, side: int, steps: int, seed: int
) -> tuple[Image.Image, Image.Image, Image.Image, str]:
    """Original, reconstruction and difference, and a line about them.

    Args:
      vae: that reconstructs.
      path: of a photo of any size.
      side: longest side in pixels, to which a larger photo is scaled down.
      steps: network evaluations.
      seed: of the decoder's noise.

    Raises:
      DataError: the photo cannot be read.
    """
    original = Image.fromarray(read_image(pathlib.Path(path)))
    original.thumbnail((side, side), Image.Resampling.LANCZOS)
    image = np.asarray(original)
    start = time.perf_counter()
    result = vae.reconstruct(image, steps, seed)
    seconds = time.perf_counter() - start
    difference = np.abs(image.astype(np.int16) - result) * DIFFERENCE_GAIN
    score = float(psnr_ssim.psnr(image[None] / 255, result[None] / 255)[0])
    line = (
        f"PSNR {score:.2f} dB, {seconds:.1f} s. {original.width} × {original.height} pixels, from "
        f"latents of 1/{vae.networks.f} of the width and height, with {vae.networks.encoder.n_z} "
        "channels."
    )
    pictures = image, result, np.minimum(difference, 255).astype(np.uint8)
    return *map(Image.fromarray, pictures), line


def build_page(vae: autoencoder.Autoencoder, title: str) -> gradio.Blocks:
    """The page, which `launch` serves.

    Args:
      vae: that reconstructs.
      title: what it is, in words.
    """

    def run(path: str | None, side: int, steps: int, seed: float) -> tuple:
        if path is None:
            raise gradio.Error("Choose a photo first.", print_exception=False)
        try:
            return reconstruct(vae, path, side=side, steps=steps, seed=int(seed))
        except UserError as error:
            raise gradio.Error(str(error), print_exception=False) from error

    with gradio.Blocks(title="ε-VAE", analytics_enabled=False) as page:
        gradio.Markdown(f"# ε-VAE: denoising as visual decoding\n{title}")
        with gradio.Row():
            photo = gradio.Image(type="filepath", label="Photo", sources=["upload", "clipboard"])
            with gradio.Column():
                steps = gradio.Slider(1, 10, 1, step=1, label="Steps (network evaluations)")
                seed = gradio.Number(0, precision=0, minimum=0, label="Seed of the noise")
                side = gradio.Slider(
                    64, 1024, 256, step=64, label="Longest side, to which photos are scaled down"
                )
                button = gradio.Button("Reconstruct", variant="primary")
                line = gradio.Markdown()
        with gradio.Row():
            shown = [
                gradio.Image(label=label, format="png", interactive=False)
                for label in ("Original", "Reconstruction", f"Difference × {DIFFERENCE_GAIN}")
            ]
        button.click(run, [photo, side, steps, seed], [*shown, line])
    return page


def check_flags() -> None:
    """Raises `UsageError` for flags that are missing, or without gradio."""
    if WORKDIR.value is None:
        raise UsageError("--workdir is missing: name the folder of a run")
    check_folder(WORKDIR)
    if importlib.util.find_spec("gradio") is None:
        raise UsageError("the page needs gradio; pip install -e '.[demo]'")
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")


def main(argv: Sequence[str]) -> None:
    """Restores, and serves until Ctrl-C."""
    del argv
    logging.set_verbosity(logging.ERROR)
    with exit_codes():
        vae = autoencoder.restore(WORKDIR.value, STEP.value)
        page = build_page(vae, f"{WORKDIR.value}, step {vae.step}")
        print(f"http://127.0.0.1:{PORT.value} (Ctrl-C ends it)", flush=True)
        try:
            page.launch(
                server_name="127.0.0.1", server_port=PORT.value, quiet=True, footer_links=[]
            )
        except OSError as error:
            raise UsageError(
                f"--port={PORT.value}: cannot be served on ({reason(error)}); name another"
            ) from error


if __name__ == "__main__":
    app.run(main, flags_parser=lambda argv: parse_flags(argv, check_flags))
