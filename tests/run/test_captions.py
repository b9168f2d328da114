"""Pictures with captions: no pixel is lost, and the words are where they belong."""

import numpy as np

from epsilon_vae.run.captions import GAP, LINE, MARGIN, captioned


def test_pixels_are_kept_and_captions_stay_in_their_columns():
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    names = ["a", "a name that is much longer than its picture is wide.png", "É ε"]
    page = captioned(images, names, columns=2, title="step 7", heads=["original", "NFE 1"])
    width, top = 3 * 64, 2 * LINE  # the least whole multiple of 64 px that is 160 px
    assert page.shape == (top + 2 * (width + LINE) + MARGIN, 2 * width + GAP + 2 * MARGIN, 3)
    for i, image in enumerate(images):
        y, x = top + i // 2 * (width + LINE), MARGIN + i % 2 * (width + GAP)
        cell = page[y : y + width, x : x + width]
        assert np.array_equal(cell[1::3, 1::3], image) and np.array_equal(cell[::3, 2::3], image)
        below = page[y + width : y + width + LINE]
        assert below[:, x : x + width].min() < 100
        assert (below[:, x + width :][:, : GAP if i == 0 else None] == 255).all()
    other = captioned(images, names, columns=2, title="step 8", heads=["original", "NFE 1"])
    assert (page[:LINE] != other[:LINE]).any() and np.array_equal(page[LINE:], other[LINE:])


def test_large_pictures_are_as_they_are():
    images = np.zeros((1, 20, 300, 3), np.uint8)
    page = captioned(images, ["class 1"], columns=1, title="step 1, NFE 3")
    assert page.shape == (20 + 2 * LINE + MARGIN, 300 + 2 * MARGIN, 3)
    assert (page[LINE : LINE + 20, MARGIN:-MARGIN] == 0).all() and (page[:, -MARGIN:] == 255).all()
