"""The discriminator of the laptop's configs learns; so does what the benchmark compares it with."""

import numpy as np
import pytest
from scipy import ndimage

from benchmarks import discriminator
from configs import studies, tiny


def test_blur_is_scipys():
    images = np.random.default_rng(0).normal(size=(2, 16, 20, 3))
    expected = ndimage.gaussian_filter(images, (0, 1, 1, 0), mode="nearest")
    np.testing.assert_allclose(discriminator.blur(images), expected, atol=1e-5)


def test_tinys_discriminator_ranks_blurred_crops_within_a_hundred_steps():
    """At 32 px, with its own losses, R1 and optimizer: 0.9 of the pairs, and the loss falls."""
    config = tiny.get_config()
    config.data.resolution = 32
    batches = discriminator.batches_of(config, "photos")
    first, second = discriminator.learn(config, batches, num_steps=100)
    batches.close()
    chance = np.log(2)
    assert first["loss/disc"] == pytest.approx(chance, abs=0.02)
    assert second["loss/disc"] < 0.95 * chance
    for number in range(3):
        assert second[f"accuracy/disc_t{number}"] >= 0.9


def test_study_has_the_discriminator_of_tiny():
    """So that what is measured of one is true of the other, but for the size of the images."""
    small, own = studies.ladder("small")["e"].config, tiny.get_config()
    assert small.model.discriminator == own.model.discriminator
    keys = [key for key in own.optim if key.startswith("discriminator_")]
    assert [small.optim[key] for key in keys] == [own.optim[key] for key in keys] and len(keys) == 4
    keys = ["gan", "r1_weight", "r1_every_steps", "disc_start_step", "adv_start_step"]
    assert [small.loss[key] for key in keys] == [own.loss[key] for key in keys]
    # On a pod it is the paper's.
    paper = studies.ladder("paper")["e"].config
    assert (paper.loss.gan, paper.model.discriminator.context_scale) == ("non_saturating", 1.0)
