"""PSNR and SSIM of each image of a batch, on images `[B, H, W, 3]`, by default in [0, 1]."""

import jax
import jax.numpy as jnp
from jax import lax


def psnr(images: jax.Array, others: jax.Array, peak: float = 1.0) -> jax.Array:
    """Peak signal-to-noise ratio in dB, `[B]`, of images in [0, peak]; infinite for equal ones."""
    return 10 * jnp.log10(peak**2 / jnp.mean((images - others) ** 2, axis=(1, 2, 3)))


def ssim(
    images: jax.Array,
    others: jax.Array,
    data_range: float = 1.0,
    *,
    sigma: float = 1.5,
    radius: int = 5,
) -> jax.Array:
    """Structural similarity (Wang et al. 2004), `[B]`: Gaussian 11×11 window.

    Mean over channels and over positions whose window lies inside; population covariance. Equals
    skimage's `structural_similarity` with `gaussian_weights=True, use_sample_covariance=False`.

    Args:
      data_range: L of the constants (0.01 L)² and (0.03 L)². 1 is right for [0, 1]; some papers
        have 2, which gives higher numbers.
      sigma: of the window, in pixels.
      radius: of the window, in pixels, its centre not counted.
    """
    offsets = jnp.arange(-radius, radius + 1, dtype=jnp.float32)
    window = jnp.exp(-0.5 * (offsets / sigma) ** 2)
    window = window / jnp.sum(window)

    def blur(x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        for kernel in (window[:, None], window[None, :]):
            kernel = jnp.broadcast_to(kernel[:, :, None, None], (*kernel.shape, 1, channels))
            x = lax.conv_general_dilated(
                x,
                kernel,
                (1, 1),
                "VALID",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=channels,
                precision=lax.Precision.HIGHEST,
            )
        return x

    mean_a, mean_b = blur(images), blur(others)
    variance_a = blur(images**2) - mean_a**2
    variance_b = blur(others**2) - mean_b**2
    covariance = blur(images * others) - mean_a * mean_b
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * covariance + c2) / (variance_a + variance_b + c2)
    return jnp.mean(luminance * structure, axis=(1, 2, 3))
