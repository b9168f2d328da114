"""The page to try a model on: what it computes, and the page itself in a browser."""

import re
import shutil
import socket

import numpy as np
import pytest
from PIL import Image

import epsilon_vae
from epsilon_vae.inference.demo_page import DIFFERENCE_GAIN, reconstruct
from tests.helpers import held_out_images
from tests.processes import start_alone

PICTURES = "img[src*='/file=']"  # and not the page's icons


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(held_out_images(32)[0]).resize((96, 64)).save(path)
    return path


def test_what_is_shown_is_what_the_model_gives(finished_run, photo):
    vae = epsilon_vae.restore(str(finished_run))
    original, result, difference, line = reconstruct(vae, photo, side=48, steps=2, seed=1)
    assert original.size == result.size == difference.size == (48, 32)
    image = np.asarray(original)
    np.testing.assert_array_equal(result, vae.reconstruct(image, steps=2, seed=1))
    gap = np.abs(image.astype(int) - np.asarray(result)) * DIFFERENCE_GAIN
    np.testing.assert_array_equal(difference, np.minimum(gap, 255))
    error = np.mean((image / 255 - np.asarray(result) / 255) ** 2)
    assert f"PSNR {-10 * np.log10(error):.2f} dB" in line
    assert "48 × 32 pixels, from latents of 1/4 of the width and height, with 8 channels" in line


def test_a_photo_becomes_a_reconstruction_in_a_browser(finished_run, photo, tmp_path):
    pytest.importorskip("gradio", reason="needs the extra demo")
    if not shutil.which("chromedriver"):
        pytest.skip("needs Chromium: apt-get install chromium chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = "epsilon_vae.demo", f"--workdir={finished_run}", f"--port={port}"
    process = start_alone(*command)
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage"):
        options.add_argument(f"--{flag}")
    # The page must need nothing that is not on this machine.
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1")
    try:
        address = process.stdout.readline().split()[0]
        assert address == f"http://127.0.0.1:{port}"
        service = webdriver.ChromeService(shutil.which("chromedriver"))
        with webdriver.Chrome(options, service) as driver:
            wait = WebDriverWait(driver, 120)
            wait.until(lambda _: socket.socket().connect_ex(("127.0.0.1", port)) == 0)
            driver.get(address)
            wait.until(lambda d: d.find_elements(By.CSS_SELECTOR, "input[type=file]"))
            driver.find_element(By.CSS_SELECTOR, "input[type=file]").send_keys(str(photo))
            wait.until(lambda d: len(d.find_elements(By.CSS_SELECTOR, PICTURES)) == 1)
            driver.find_element(By.CSS_SELECTOR, "button.primary").click()
            wait.until(lambda d: " dB" in d.find_element(By.TAG_NAME, "body").text)
            text = driver.find_element(By.TAG_NAME, "body").text
            assert re.search(r"PSNR \d+\.\d\d dB", text) and "96 × 64 pixels" in text
            wait.until(lambda d: len(d.find_elements(By.CSS_SELECTOR, PICTURES)) == 4)
        second = start_alone(*command)
        _, err = second.communicate(timeout=120)
        assert second.returncode == 2 and f"--port={port}: cannot be served on" in err
        assert len(err.splitlines()) == 1
    finally:
        process.kill()
        process.communicate()
