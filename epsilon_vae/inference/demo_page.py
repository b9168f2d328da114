"""The page to try a model on: drop a photo, and see what becomes of it."""

from __future__ import annotations

import pathlib
import time

import numpy as np
from etils import epy
from PIL import Image

from epsilon_vae.data.decode import read_image
from epsilon_vae.errors import UserError
from epsilon_vae.inference.autoencoder import Autoencoder
from epsilon_vae.metrics.psnr_ssim import psnr

with epy.lazy_imports():
    import gradio  # an extra

DIFFERENCE_GAIN = 4


def reconstruct(
    vae: Autoencoder, path: str, *, side: int, steps: int, seed: int
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
    score = float(psnr(image[None] / 255, result[None] / 255)[0])
    line = (
        f"PSNR {score:.2f} dB, {seconds:.1f} s. {original.width} × {original.height} pixels, from "
        f"latents of 1/{vae.networks.f} of the width and height, with {vae.networks.encoder.n_z} "
        "channels."
    )
    if tiling := vae.tiling(*image.shape[:2]):
        line += f" In {len(tiling.corners)} tiles of {tiling.side} pixels."
    pictures = image, result, np.minimum(difference, 255).astype(np.uint8)
    return *map(Image.fromarray, pictures), line


def build_page(vae: Autoencoder, title: str) -> gradio.Blocks:
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
                steps = gradio.Slider(1, 10, 3, step=1, label="Steps (network evaluations)")
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
