"""The report in a real browser, with the network off: what it shows and what it answers to."""

import base64
import dataclasses
import io
import json
import re

import numpy as np
import pytest
from PIL import Image
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select

from epsilon_vae.evaluation import plots
from epsilon_vae.evaluation.report import Gallery, write_report
from epsilon_vae.metrics.labels import LABELS
from tests.evaluation.browser import emulate, find, find_all, open_page, requests, text_of
from tests.evaluation.example_report import (
    BAD_NAME,
    NOTE,
    NUM_IMAGES,
    RESOLUTIONS,
    make_pictures,
    make_results,
    worst_of,
)


@pytest.fixture(scope="module")
def pictures() -> Gallery:
    return make_pictures()


@pytest.fixture(scope="module")
def report(pictures, tmp_path_factory):
    """Path of the report of all that a report may hold."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    results = make_results(pictures.images)
    write_report(path, results, figures=plots.draw(results["rows"]), pictures=pictures)
    return path


@pytest.fixture
def page(chromium, report):
    """The report, just opened; what it logs and what it asks for is checked in the end."""
    open_page(chromium, report)
    yield chromium
    assert chromium.get_log("browser") == []
    assert requests(chromium) == {report.as_uri()}


def choose(driver, id_: str, text: str) -> None:
    Select(find(driver, f"#{id_}")).select_by_visible_text(text)


def column(driver, table: str, number: int) -> list[str]:
    """Texts of a column, from 1."""
    cells = find_all(driver, f"#{table} tbody td:nth-child({number})")
    return [cell.get_attribute("textContent").strip() for cell in cells]


def stage_picture(driver, resolution: int, zoom: int) -> np.ndarray:
    """What the viewer's stage shows, uint8 `[resolution, resolution, 3]`, where all of it fits."""
    driver.execute_script("document.getElementById('wipe').style.visibility = 'hidden'")
    png = find(driver, "#stage").screenshot_as_png
    driver.execute_script("document.getElementById('wipe').style.visibility = ''")
    screen = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    script = "const r = document.getElementById('left-picture').getBoundingClientRect();"
    script += "const s = document.getElementById('stage').getBoundingClientRect();"
    left, top = driver.execute_script(f"{script} return [r.left - s.left, r.top - s.top]")
    at = zoom * np.arange(resolution) + zoom // 2
    return screen[round(top) + at][:, round(left) + at]


def test_pictures_are_embedded_once_and_without_loss(report, pictures):
    html = report.read_text(encoding="utf-8")
    uris = re.findall(r"data:image/webp;base64,[^\"]*", html)
    assert len(uris) == len(set(uris))
    shown = json.loads(re.search(r'id="data">(.*?)</script>', html, re.DOTALL)[1])
    image = pictures.images[5]
    for picture, place in (
        (image.original, shown["images"][5]["original"]),
        (image.reconstructions["tiny", 3], shown["images"][5]["results"][1]["picture"]),
        (pictures.trajectories[0].states[1], shown["trajectories"][0]["states"][1]),
    ):
        webp = base64.b64decode(uris[place].split(",")[1])
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(webp))), picture)


def test_same_arguments_same_page(report, pictures, tmp_path):
    results = make_results(pictures.images)
    write_report(
        tmp_path / "again.html", results, figures=plots.draw(results["rows"]), pictures=pictures
    )
    assert (tmp_path / "again.html").read_bytes() == report.read_bytes()


def test_names_are_text(page):
    assert BAD_NAME in text_of(page, "h1") and BAD_NAME in page.title
    assert BAD_NAME in column(page, "results-table", 1)
    choose(page, "viewer-right", BAD_NAME)
    assert text_of(page, "#right-label") == BAD_NAME
    assert any(BAD_NAME in name for name in column(page, "images-table", 2))
    bold = page.execute_script("return [...document.querySelectorAll('b')].map(b => b.textContent)")
    assert not any(text.startswith('"ε') for text in bold)


def test_results_table(page):
    head = [h.text.replace("\xa0", " ") for h in find_all(page, "#results-table th")]
    assert head == [
        "Reconstructor",
        "px",
        "NFE",
        "Images",
        "rFID ↓",
        "FD VGG16 ↓",
        "PSNR (dB) ↑",
        "SSIM ↑",
        "LPIPS VGG16 ↓",
        "Decoding (ms) ↓",
    ]
    resolutions, reconstructors = column(page, "results-table", 2), column(page, "results-table", 1)
    assert resolutions == ["32"] * 3 + ["64"] * 4
    assert reconstructors[5].endswith("ε-VAE M (paper)") and "tiny" in reconstructors[4]
    assert find_all(page, "#results-table tr.paper .tag")[0].text == "paper"
    assert column(page, "results-table", 5) == ["–"] * 5 + ["1.58", "–"]
    assert column(page, "results-table", 6)[:3] == ["123.51", "41.15", "61.73"]  # note 1 of 123.5
    assert column(page, "results-table", 7)[2] == "∞"
    assert column(page, "results-table", 10)[:3] == ["12.3 (11.1–14.8)", "36.9 (33.2–44.3)", "–"]
    assert text_of(page, "#note-1") == NOTE.replace("fd_vgg16", "FD VGG16")
    best = [
        cell.get_attribute("textContent").strip() for cell in find_all(page, "#results-table .best")
    ]
    assert best[:2] == ["12.3 (11.1–14.8)", "41.15"] and best[4] == "∞"
    find(page, "#results-table th:nth-child(6) button").click()
    assert column(page, "results-table", 6)[:2] == ["41.15"] * 2
    assert column(page, "results-table", 6)[-1] == "–"


def test_protocol_unfolds(page):
    assert text_of(page, ".stamp").split("\n")[1] == "crop adm"
    assert not find(page, ".metadata").is_displayed()
    find(page, "summary").click()
    assert "0123abc" in find(page, ".metadata").text


def test_plots_are_inline(page):
    assert [figure.get_attribute("id") for figure in find_all(page, "#plots figure")] == [
        "fd_vgg16_over_nfe",
        "psnr_over_lpips",
        "quality_over_decode_time",
    ]
    assert all(svg.size["width"] > 300 for svg in find_all(page, "#plots svg"))
    ids = "[...document.querySelectorAll('[id]')].map(e => e.id)"
    assert page.execute_script(f"return new Set({ids}).size === {ids}.length")


def test_wipe_shows_left_and_right(page, pictures):
    image = pictures.images[0]
    choose(page, "viewer-left", "original")
    choose(page, "viewer-right", "tiny, NFE 1")
    find(page, "#zooms button[value='8']").click()
    other, wipe = image.reconstructions["tiny", 1], find(page, "#wipe")
    half = stage_picture(page, 32, 8)
    # The labels of the sides lie over the lowest rows.
    assert np.array_equal(half[:24, :16], image.original[:24, :16])
    assert np.array_equal(half[:24, 16:], other[:24, 16:])
    wipe.send_keys(Keys.END)
    assert wipe.get_attribute("aria-valuenow") == "100"
    assert np.array_equal(stage_picture(page, 32, 8)[:24], image.original[:24])
    wipe.send_keys(Keys.HOME)
    assert np.array_equal(stage_picture(page, 32, 8)[:24], other[:24])
    ActionChains(page).drag_and_drop_by_offset(wipe, 64, 0).perform()
    assert wipe.get_attribute("aria-valuenow") == "25"
    assert np.array_equal(stage_picture(page, 32, 8)[:24, :8], image.original[:24, :8])
    wipe.send_keys(Keys.ARROW_RIGHT)
    assert wipe.get_attribute("aria-valuenow") == "27"


def test_zoom_and_pan(page):
    picture, stage = find(page, "#right-picture"), find(page, "#stage")
    for zoom in (1, 4, 32):
        find(page, f"#zooms button[value='{zoom}']").click()
        assert picture.size["width"] == 32 * zoom
        assert picture.value_of_css_property("image-rendering") == "pixelated"
    x, y = picture.location["x"], picture.location["y"]
    ActionChains(page).move_to_element_with_offset(stage, 100, 50).click_and_hold().move_by_offset(
        -30, 20
    ).release().perform()
    assert (picture.location["x"], picture.location["y"]) == (x - 30, y + 20)
    assert find(page, "#wipe").get_attribute("aria-valuenow") == "50"
    event = "new WheelEvent('wheel', {deltaY: 1, ctrlKey: true, cancelable: true})"
    page.execute_script(f"arguments[0].dispatchEvent({event})", stage)
    assert picture.size["width"] == 32 * 16


def test_viewer_keeps_the_image_at_another_resolution(page, pictures):
    find_all(page, "#strip button")[2].click()
    assert text_of(page, "#viewer-name") == "photo_2.png"
    choose(page, "viewer-resolution", "64 px")
    assert text_of(page, "#viewer-name") == "photo_2.png"
    choose(page, "viewer-left", "tiny, NFE 1")
    image = pictures.images[NUM_IMAGES + 2]
    assert image.resolution == 64
    values = [cell.text for cell in find_all(page, "#viewer-metrics td.shown")]
    assert values[0] == f"{image.metrics['tiny', 1]['psnr']:.2f}" and len(values) == 6
    best = [cell.text for cell in find_all(page, "#viewer-metrics td.best")]
    assert best[0] == f"{max(values['psnr'] for values in image.metrics.values()):.2f}"
    assert best[2] == f"{min(values['lpips_vgg16'] for values in image.metrics.values()):.4f}"


def test_images_table_sorts_and_opens_the_viewer(page, pictures):
    choose(page, "images-resolution", "64 px")
    choose(page, "images-key", "tiny, NFE 3")
    images = [image for image in pictures.images if image.resolution == 64]
    assert column(page, "images-table", 1) == [str(image.index) for image in images]
    header = find(page, "#images-table th:nth-child(3)")
    for order in ("ascending", "descending"):
        header.find_element(By.TAG_NAME, "button").click()
        assert header.get_attribute("aria-sort") == order
        psnr = sorted(i.metrics["tiny", 3]["psnr"] for i in images)[:: 1 if order[0] == "a" else -1]
        assert column(page, "images-table", 3) == [f"{value:.2f}" for value in psnr]
    choose(page, "images-key", BAD_NAME)
    assert column(page, "images-table", 3)[0] == "∞"  # still descending
    find(page, "#images-table th:nth-child(2) button").click()
    names = column(page, "images-table", 2)
    assert header.get_attribute("aria-sort") == "none" and names == sorted(names)
    find_all(page, "#images-table tbody tr")[-1].click()
    assert text_of(page, "#viewer-name") == names[-1]
    assert text_of(page, "#right-label") == BAD_NAME


@pytest.mark.parametrize("metric", ["psnr", "lpips_vgg16"])
def test_worst_images(page, pictures, metric):
    label = LABELS[metric]
    choose(page, "worst-resolution", "64 px")
    choose(page, "worst-key", "tiny, NFE 3")
    choose(page, "worst-metric", label)
    own = [image for image in pictures.images if image.resolution == 64]
    expected = worst_of(own, metric, ("tiny", 3))
    assert [name.text for name in find_all(page, "#worst-list .name")] == [i.name for i in expected]
    digits = 2 if metric == "psnr" else 4
    values = [f"{label} {image.metrics['tiny', 3][metric]:.{digits}f}" for image in expected]
    assert [value.text for value in find_all(page, "#worst-list .card > b")] == values
    find_all(page, "#worst-list button")[4].click()
    assert text_of(page, "#viewer-name") == expected[4].name
    assert text_of(page, "#right-label") == "tiny, NFE 3"


def test_seeds_share_a_scale(page, pictures):
    assert len(find_all(page, "#seeds .card")) == len(RESOLUTIONS)
    deviations = np.concatenate([seeds.deviation.ravel() for seeds in pictures.seeds])
    top = float(find_all(page, "#seeds .legend span")[-1].text.removeprefix("≥ "))
    assert np.mean(deviations <= top) > 0.99 and top <= np.max(deviations) + 0.05


def test_decoding_from_noise(page):
    slider = find(page, "#trajectory-time")
    assert text_of(page, "#trajectory-now") == "t = 1"
    times = [cell.text for cell in find_all(page, "#trajectory-strip tr:last-child td")]
    assert times == ["1", "0.75", "0.5", "0.25", "0"]
    slider.send_keys(Keys.ARROW_RIGHT)
    assert text_of(page, "#trajectory-now") == "t = 0.75"
    strip = find_all(page, "#trajectory-strip tr:first-child img")
    state = find(page, "#trajectory-view figure:nth-child(2) img")
    assert state.get_attribute("src") == strip[1].get_attribute("src")
    slider.send_keys(Keys.END)
    assert (
        text_of(page, "#trajectory-now") == "t = 0"
        and len(find_all(page, "#trajectory-view img")) == 2
    )
    choose(page, "trajectory", "photo_0.png, 64 px, tiny, 4 steps")
    assert text_of(page, "#trajectory-now") == "t = 1"


def test_page_begins_with_two_reconstructors_in_the_viewer(page):
    """Each at NFE 3, or the one that it has."""
    sections = [section.get_attribute("id") for section in find_all(page, "main > section")]
    assert sections[:3] == ["viewer", "results", "plots"]
    assert text_of(page, "#left-label") == "tiny, NFE 3"
    assert text_of(page, "#right-label") == BAD_NAME


@pytest.mark.parametrize("width", [1400, 390])
def test_no_word_is_broken(page, width):
    """A cell of a table is as wide as its longest word."""
    emulate(page, width, "light")
    script = """
      const broken = [];
      for (const cell of document.querySelectorAll("table :is(th, td)")) {
        const walker = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
        while (walker.nextNode()) {
          for (const word of walker.currentNode.data.matchAll(/[\\p{L}\\d]+/gu)) {
            const range = document.createRange();
            range.setStart(walker.currentNode, word.index);
            range.setEnd(walker.currentNode, word.index + word[0].length);
            const tops = new Set([...range.getClientRects()].map(({ top }) => Math.round(top)));
            if (tops.size > 1) broken.push(word[0]);
          }
        }
      }
      return broken;"""
    assert page.execute_script(script) == []


def test_metrics_are_reachable_on_a_phone(page):
    """Reconstructors stay where they are while the metrics scroll past, to the last."""
    emulate(page, 390, "light")
    for table in ("results-table", "viewer-metrics"):
        script = f"return document.getElementById('{table}').parentElement"
        scroll = page.execute_script(script)
        page.execute_script("arguments[0].scrollLeft = 10000", scroll)
        inside = "const r = arguments[0].getBoundingClientRect(); return [r.left, r.right]"
        first, last = (find(page, f"#{table} tbody tr > :{x}-child") for x in ("first", "last"))
        [left, right], [_, end] = (page.execute_script(inside, cell) for cell in (first, last))
        assert left >= 0 and right < 200 and end <= 390, table
    for svg in find_all(page, "#plots svg"):
        left, right = page.execute_script(inside, svg)
        assert left >= 0 and right <= 390


def luminance(color: str) -> float:
    """Of a CSS color, 0 to 255."""
    return float(np.mean([float(x) for x in re.findall(r"[\d.]+", color)[:3]]))


@pytest.mark.parametrize("color_scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_page_fits_and_is_readable(page, color_scheme, width, tmp_path):
    emulate(page, width, color_scheme)
    fits = "return document.documentElement.scrollWidth <= window.innerWidth"
    assert page.execute_script(fits) and page.execute_script("return window.innerWidth") == width
    background = luminance(find(page, "body").value_of_css_property("background-color"))
    assert background < 40 if color_scheme == "dark" else background > 230
    for selector in ("h1", "td", "select", "#worst-list .name", ".notes", "figcaption"):
        ink = luminance(find(page, selector).value_of_css_property("color"))
        assert abs(ink - background) > 100, selector
    ink = luminance(find(page, "#plots svg text").value_of_css_property("fill"))
    assert abs(ink - background) > 100
    assert page.save_screenshot(str(tmp_path / "report.png"))


def test_parts_without_content_are_left_out(chromium, pictures, tmp_path):
    results = make_results(pictures.images)
    results |= {"paper": [], "rows": [row | {"notes": []} for row in results["rows"]]}
    write_report(
        tmp_path / "report.html",
        results,
        figures={},
        pictures=Gallery(images=[], worst={}, seeds=[], trajectories=[]),
    )
    open_page(chromium, tmp_path / "report.html")
    assert [section.get_attribute("id") for section in find_all(chromium, "main > section")] == [
        "results"
    ]
    assert [link.text for link in find_all(chromium, "nav a")] == ["Results"]
    assert not find_all(chromium, ".notes") and chromium.get_log("browser") == []


def test_worst_images_need_no_other_pictures(chromium, pictures, tmp_path):
    """An image that only a list of worst ones names has the pictures of that list."""
    own = [image for image in pictures.images if image.resolution == 64]
    key, worst = ("tiny", 3), worst_of(own, "psnr", ("tiny", 3))[0]
    lists = {(64, "psnr", key): pictures.worst[64, "psnr", key]}
    alone = dataclasses.replace(
        worst,
        reconstructions={key: worst.reconstructions[key]},
        metrics={key: worst.metrics[key]},
    )
    images = [alone if image is worst else image for image in own]
    results = make_results(pictures.images)
    shown = Gallery(
        images=images,
        worst=lists,
        seeds=[],
        trajectories=[],
        shown=["64 px: 11 of 40 images, evenly spaced"],
    )
    write_report(tmp_path / "report.html", results, figures={}, pictures=shown)
    open_page(chromium, tmp_path / "report.html")
    assert find(chromium, "p.shown").text == "64 px: 11 of 40 images, evenly spaced."
    choose(chromium, "viewer-right", "tiny, NFE 1")
    find_all(chromium, "#worst-list button")[0].click()
    assert text_of(chromium, "#viewer-name") == worst.name
    assert text_of(chromium, "#right-label") == "tiny, NFE 3"
    options = Select(find(chromium, "#viewer-right")).options
    assert [option.text for option in options] == ["original", "tiny, NFE 3"]
    choose(chromium, "images-key", "tiny, NFE 1")
    assert len(column(chromium, "images-table", 1)) == len(own) - 1
    assert chromium.get_log("browser") == []


def test_page_of_one_reconstructor_begins_beside_the_original(chromium, pictures, tmp_path):
    key = ("tiny", 1)
    images = [
        dataclasses.replace(
            x, reconstructions={key: x.reconstructions[key]}, metrics={key: x.metrics[key]}
        )
        for x in pictures.images
    ]
    shown = Gallery(images=images, worst={}, seeds=[], trajectories=[])
    results = make_results(pictures.images)
    results["rows"] = [row for row in results["rows"] if row["nfe"] == 1][:1]
    figures = plots.draw(results["rows"])
    write_report(tmp_path / "report.html", results, figures=figures, pictures=shown)
    open_page(chromium, tmp_path / "report.html")
    assert text_of(chromium, "#left-label") == "original"
    assert text_of(chromium, "#right-label") == "tiny, NFE 1"
    assert not find_all(chromium, "#plots") and not find_all(chromium, ".best")
