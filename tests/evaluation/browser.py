"""What tests of pages do in a browser."""

import json
import re

from selenium.webdriver.common.by import By


def emulate(driver, width: int, color_scheme: str) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    feature = {"name": "prefers-color-scheme", "value": color_scheme}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def open_page(driver, path) -> None:
    """Opens a page, light and 1280 px wide, where scrolling takes no time."""
    emulate(driver, 1280, "light")
    driver.get(path.as_uri())
    driver.execute_script("document.documentElement.style.scrollBehavior = 'auto'")


def requests(driver) -> set[str]:
    """URLs that were asked for, without data URIs."""
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    urls = [
        e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"
    ]
    return {re.sub("#.*", "", url) for url in urls if not url.startswith("data:")}


def find(driver, selector: str):
    return driver.find_element(By.CSS_SELECTOR, selector)


def find_all(driver, selector: str) -> list:
    return driver.find_elements(By.CSS_SELECTOR, selector)


def text_of(driver, selector: str) -> str:
    return find(driver, selector).get_attribute("textContent").strip()
