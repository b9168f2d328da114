"""What metrics are called: of every name that results have there is a label."""

import pytest

from epsilon_vae.evaluation.features import FEATURES
from epsilon_vae.evaluation.protocols import distance_name
from epsilon_vae.losses.perceptual import NETS
from epsilon_vae.metrics.labels import LABELS, heading


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("psnr", "PSNR (dB) ↑"),
        ("ssim_range2", "SSIM (range 2) ↑"),
        ("rfid", "rFID ↓"),
        ("fd_vgg16_noise0.1", "FD VGG16, noise 0.1 ↓"),
        ("recall_efficientnet_lite0", "Recall EfficientNet-Lite0 ↑"),
        ("inception_score_deviation", "Inception score deviation"),
        ("decode_seconds", "Decoding (ms) ↓"),
        ("mae", "mae ↓"),
    ],
)
def test_headings(name, words):
    assert heading(name) == words


def test_every_metric_has_a_label():
    names = ["psnr", "ssim", "ssim_range2", "decode_seconds", *(f"lpips_{net}" for net in NETS)]
    for features in FEATURES:
        names += [distance_name(features), f"precision_{features}", f"recall_{features}"]
    assert LABELS.keys() >= set(names)
