"""A real, headless Chromium (Debian's chromium and chromium-driver), driven with selenium. Nothing is downloaded."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service


def start(width: int = 1440, height: int = 900) -> Chrome:
    """Start Chromium with a window of this size; the caller quits it.

    What a click needs in sight is there at once: a page that scrolled smoothly would make it miss.
    """
    options = ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless=new", f"--window-size={width},{height}", "--disable-dev-shm-usage", "--disable-gpu",
                     "--no-first-run", "--disable-background-networking", "--hide-scrollbars",
                     "--force-prefers-reduced-motion"):  # fmt: skip
        options.add_argument(argument)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium refuses to start for root otherwise
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return Chrome(options=options, service=Service(shutil.which("chromedriver")))


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    """One browser for a module's tests. Without Chromium the tests are skipped, in CI they fail."""
    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    if missing:
        message = f"{' and '.join(missing)} not found: install Debian's chromium and chromium-driver"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    driver = start()
    try:
        yield driver
    finally:
        driver.quit()
