"""`center_crop_bicubic` against torchvision, to the pixel."""

import numpy as np
import pytest
from PIL import Image

from epsilon_vae.data.sources import Photos
from epsilon_vae.data.transforms import center_crop_bicubic
from tests.parity.requirements import require

require("torchvision")
from torchvision import transforms  # noqa: E402


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (401, 301), (90, 61), (64, 64)])
@pytest.mark.parametrize("crop", [64, 97])
def test_center_crop_bicubic(size, crop):
    theirs = transforms.Compose(
        [
            transforms.Resize(crop, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(crop),
        ]
    )
    image = Image.open(Photos("val").paths[0]).convert("RGB").resize(size)
    np.testing.assert_array_equal(center_crop_bicubic(image, crop), np.asarray(theirs(image)))
