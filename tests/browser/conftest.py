"""One Chromium for the tests of one page; each begins with a fresh, wide, light window.

Not one for all: tests of processes, which look at the children of this one, may run in between.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.browser import WIDE, Browser, chromium


@pytest.fixture(scope="module")
def chromium_window() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def browser(chromium_window: Browser) -> Iterator[Browser]:
    """Every test ends with a look at the console: a page that throws, or breaks its policy, has failed."""
    chromium_window.size(*WIDE)
    chromium_window.theme("light")
    chromium_window.errors()
    yield chromium_window
    errors = chromium_window.errors()
    chromium_window.driver.get("about:blank")
    assert not errors
