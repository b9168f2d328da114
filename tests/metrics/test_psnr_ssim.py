"""PSNR and SSIM against scikit-image."""

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from epsilon_vae.metrics.psnr_ssim import psnr, ssim
from tests.helpers import held_out_images


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray]:
    images = held_out_images(64).astype(np.float32) / 255
    noise = np.random.default_rng(0).normal(size=images.shape).astype(np.float32)
    return images, np.clip(images + 0.1 * noise, 0, 1)


def test_psnr_equals_skimage(pair):
    expected = [peak_signal_noise_ratio(a, b, data_range=1) for a, b in zip(*pair, strict=True)]
    np.testing.assert_allclose(psnr(*pair), expected, rtol=1e-5)


@pytest.mark.parametrize("data_range", [1, 2])
def test_ssim_equals_skimage(pair, data_range):
    """skimage averages over the same inner positions: it crops the filter's radius."""
    expected = [
        structural_similarity(
            a.astype(np.float64),
            b.astype(np.float64),
            data_range=data_range,
            channel_axis=2,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        for a, b in zip(*pair, strict=True)
    ]
    np.testing.assert_allclose(ssim(*pair, data_range), expected, atol=1e-5)


def test_ssim_of_range_two_is_higher(pair):
    assert np.all(ssim(*pair, 2) > ssim(*pair))


def test_equal_images(pair):
    assert np.all(np.isinf(psnr(pair[0], pair[0])))
    np.testing.assert_allclose(ssim(pair[0], pair[0]), 1, atol=1e-6)
