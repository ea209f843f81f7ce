"""A real Chromium for tests: headless, with a profile of its own, driven over WebDriver by selenium.

Debian's packages `chromium` and `chromium-driver` bring both programs. Nothing here waits for a time: `until` polls
with a deadline for what a person would see.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar, cast

import pytest
from selenium.common.exceptions import StaleElementReferenceException, WebDriverException
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

WITHIN_S = 15.0
POLL_S = 0.02
WIDE = (1280, 900)
PHONE = (360, 740)
_PROGRAMS = ("chromium", "chromium-browser", "google-chrome")

Found = TypeVar("Found")


class Browser:
    """One window. CSS selectors name what is meant; what is not there within WITHIN_S fails the test."""

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver

    def open(self, url: str, page: str = "") -> None:
        """The dashboard of the server at `url`, on `page`, as `chat?id=...`; loaded anew, also when it was open."""
        self.driver.get("about:blank")
        self.driver.get(f"{url}/#/{page}")

    def all(self, css: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, css)

    def one(self, css: str) -> WebElement:
        """The first such element, waited for."""
        return self.until(lambda: next(iter(self.all(css)), None), f"an element {css}")

    def text(self, css: str) -> str:
        return self.one(css).text

    def until(self, look: Callable[[], Found | None], what: str) -> Found:
        """Poll until `look` gives something true, and return it."""
        ends_at = time.monotonic() + WITHIN_S
        while True:
            try:
                if found := look():
                    return found
            except (StaleElementReferenceException, IndexError):
                pass  # the page has drawn it anew in between
            if time.monotonic() > ends_at:
                raise AssertionError(f"not within {WITHIN_S:g} s: {what}\n{self.text_shown()[:3000]}")
            time.sleep(POLL_S)

    def until_text(self, css: str, words: str) -> WebElement:
        """The first element whose text holds `words`."""
        return self.until(
            lambda: next((one for one in self.all(css) if words in one.text), None), f"{words!r} in {css}"
        )

    def until_gone(self, css: str) -> None:
        self.until(lambda: not self.all(css), f"no {css}")

    def text_shown(self) -> str:
        return self.driver.find_element(By.TAG_NAME, "body").text

    def click(self, css: str) -> None:
        """When it is there, to be seen, and not behind anything."""

        def clicked() -> bool:
            try:
                self.one(css).click()
            except StaleElementReferenceException:
                raise
            except WebDriverException:  # something is in front of it still
                return False
            return True

        self.until(clicked, f"a click on {css}")

    def keys(self, *keys: str) -> None:
        """Press keys, whatever has the focus."""
        ActionChains(self.driver).send_keys(*keys).perform()

    def focused(self) -> WebElement:
        return self.driver.switch_to.active_element

    def script(self, code: str, *arguments: object) -> object:
        return cast("object", self.driver.execute_script(code, *arguments))  # pyright: ignore[reportUnknownMemberType]  # selenium types it in part

    def theme(self, name: str) -> None:
        """What the system prefers: `light` or `dark`."""
        self._cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def size(self, width: int, height: int) -> None:
        """Of the page, in CSS pixels; below 600 it is a phone."""
        self._cdp(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def offline(self, *, offline: bool) -> None:
        """Whether the network is gone."""
        self._cdp("Network.enable")
        self._cdp(
            "Network.emulateNetworkConditions", offline=offline, latency=0, downloadThroughput=-1, uploadThroughput=-1
        )

    def cookies(self) -> list[dict[str, object]]:
        """Also those that no script can read."""
        return cast("list[dict[str, object]]", self.driver.get_cookies())  # pyright: ignore[reportUnknownMemberType]  # selenium types it in part

    def sideways_px(self) -> int:
        """How far the page can be scrolled sideways."""
        return cast("int", self.script("const e = document.documentElement; return e.scrollWidth - e.clientWidth"))

    def screenshot(self, name: str) -> None:
        """Kept in the folder that TEST_SCREENSHOTS names, if it does."""
        if folder := os.environ.get("TEST_SCREENSHOTS"):
            path = Path(folder)
            path.mkdir(parents=True, exist_ok=True)
            self.driver.get_screenshot_as_file(str(path / f"{name}.png"))  # pyright: ignore[reportUnknownMemberType]  # selenium types it in part

    def errors(self) -> list[str]:
        """What the console said since the last look: scripts that failed, and what the page's policy refused.

        An answer of 4xx or 5xx is none of it: showing it is the page's business, and the test's to look at.
        """
        rows = cast("list[dict[str, object]]", self.driver.get_log("browser"))  # pyright: ignore[reportUnknownMemberType]  # selenium types it in part
        return [str(row["message"]) for row in rows if row["level"] == "SEVERE" and row["source"] != "network"]

    def _cdp(self, command: str, **parameters: object) -> None:
        self.driver.execute_cdp_cmd(command, parameters)  # pyright: ignore[reportUnknownMemberType]  # selenium types it in part


@contextmanager
def chromium() -> Generator[Browser]:
    """A window of WIDE. Skips the test where there is no Chromium with its driver."""
    program = next((found for name in _PROGRAMS if (found := shutil.which(name))), None)
    driver_program = shutil.which("chromedriver")
    if program is None or driver_program is None:
        pytest.skip("needs Chromium and its driver: apt-get install chromium chromium-driver")
    options = ChromeOptions()
    options.binary_location = program
    for argument in (
        "--headless=new",
        "--no-sandbox",  # CI is root; the pages are ours
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-extensions",
        "--no-first-run",
        f"--window-size={WIDE[0]},{WIDE[1]}",
    ):
        options.add_argument(argument)  # pyright: ignore[reportUnknownMemberType]  # selenium types it in part
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=ChromeService(driver_program))
    try:
        browser = Browser(driver)
        browser.size(*WIDE)
        yield browser
    finally:
        driver.quit()
