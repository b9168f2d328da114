"""The page of `--samples` in a real browser, with the network off, and which images it shows."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from epsilon_vae.evaluation.generated import FIXED
from epsilon_vae.evaluation.generated_report import (
    BUDGET_BYTES,
    BYTES_PER_PIXEL,
    Shown,
    shown_of,
    write_samples_report,
)
from epsilon_vae.evaluation.protocols import DESCRIPTIONS
from tests.evaluation.browser import emulate, find, find_all, open_page, requests, text_of
from tests.evaluation.example_report import BAD_NAME, NOTE

RESULTS = {
    "protocol": {"name": "paper", "features": ["inception", "vgg16"]}
    | FIXED
    | {"fid": DESCRIPTIONS["inception"], "fd_vgg16": DESCRIPTIONS["vgg16"]},
    "reference": f"/data/{BAD_NAME}.npz",
    "versions": {"git_commit": "0123abc"},
    "rows": [
        {
            "samples": BAD_NAME,
            "num_images": 200,
            "num_reference_images": 0,
            "fid": 2.27123,
            "fd_vgg16": 123.456,
            "inception_score": 278.24,
            "inception_score_deviation": 3.1,
            "precision_vgg16": 0.83,
            "notes": [NOTE],
        }
    ],
}


@pytest.fixture(scope="module")
def pictures() -> dict[int, np.ndarray]:
    rng = np.random.default_rng(0)
    return {index: rng.integers(0, 256, (32, 48, 3), np.uint8) for index in range(0, 200, 9)}


@pytest.fixture(scope="module")
def report(pictures, tmp_path_factory):
    """Path of a page whose reference has no images."""
    path = tmp_path_factory.mktemp("samples_report") / "report.html"
    write_samples_report(
        path, RESULTS, [Shown("Samples", 200, pictures), Shown("Reference", 0, {})]
    )
    return path


def test_batches_give_what_one_gives():
    images = np.arange(150, dtype=np.uint8)[:, None, None, None] * np.ones((2, 2, 3), np.uint8)
    whole = shown_of(images, 0, 150)
    assert len(whole) == 64 and {0, 149} <= whole.keys()
    assert all((picture == index).all() for index, picture in whole.items())
    parts = [shown_of(images[i : i + 7], i, 150) for i in range(0, 150, 7)]
    assert [index for part in parts for index in part] == [*whole]


def test_pictures_keep_to_the_budget():
    large = np.zeros((12, 512, 512, 3), np.uint8)
    count = len(shown_of(large, 0, 12))
    assert 512**2 * BYTES_PER_PIXEL * count <= BUDGET_BYTES and 8 <= count < 64
    assert [*shown_of(np.zeros((3, 1, 10**7, 3), np.uint8), 0, 3)] == [0]


def test_numbers_are_said_with_how_they_were_measured(chromium, report):
    open_page(chromium, report)
    cells = [
        [cell.get_attribute("textContent").strip() for cell in find_all(chromium, f"{row} td")]
        for row in (f"#numbers tbody tr:nth-child({i})" for i in range(1, 6))
    ]
    assert cells == [
        ["FID ↓", "2.271", DESCRIPTIONS["inception"]],
        ["FD VGG16 ↓", "123.51", DESCRIPTIONS["vgg16"]],  # note 1 of 123.5
        ["Inception score ↑", "278.2", FIXED["inception_score"]],
        ["Inception score deviation", "3.100", FIXED["inception_score"]],
        ["Precision VGG16 ↑", "0.8300", FIXED["precision_recall"]],
    ]
    assert text_of(chromium, "#note-1") == NOTE.replace("fd_vgg16", "FD VGG16")
    assert BAD_NAME in text_of(chromium, "h1") and BAD_NAME in chromium.title
    assert f"against the statistics of /data/{BAD_NAME}.npz" in find(chromium, "header p").text
    find(chromium, "summary").click()
    assert "0123abc" in find(chromium, ".metadata").text


def test_images_are_shown_as_they_are(chromium, report, pictures):
    open_page(chromium, report)
    images = find_all(chromium, ".tiles img")
    assert [int(image.get_attribute("title")) for image in images] == [*pictures]
    for image, picture in zip(images, pictures.values(), strict=True):
        webp = base64.b64decode(image.get_attribute("src").split(",")[1])
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(webp))), picture)
    assert [p.text for p in find_all(chromium, ".shown")] == [
        f"{len(pictures)} of 200, evenly spaced (more would take over 12.5 MB), 48 × 32 px",
        "no images, only mu and sigma",
    ]
    for zoom in (1, 2, 4):
        find(chromium, f"[name='zoom'][value='{zoom}']").click()
        assert images[0].size == {"width": 96 * zoom, "height": 64 * zoom}


@pytest.mark.parametrize("width", [1280, 390])
def test_page_needs_nothing_and_fits(chromium, report, width):
    chromium.get_log("performance")
    open_page(chromium, report)
    emulate(chromium, width, "dark")
    fits = "return document.documentElement.scrollWidth <= window.innerWidth"
    assert chromium.execute_script(fits)
    assert find(chromium, "body").value_of_css_property("background-color") == "rgba(20, 23, 26, 1)"
    assert requests(chromium) == {report.as_uri()} and chromium.get_log("browser") == []
