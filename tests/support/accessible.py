"""axe-core looks at a page: what keeps people with other eyes, ears and hands from using it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import cast

from tests.support.browser import Browser

AXE = Path(__file__).parent.parent / "data" / "axe-core" / "axe.min.js"
"""axe-core 4.14.1 of npm, MPL-2.0, as it is; for tests only."""
STANDARDS = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")
_SERIOUS = ("serious", "critical")
_RUN = """
const [standards, done] = arguments;
axe.run(document, {runOnly: standards, resultTypes: ["violations"]}).then(
  (found) => done(found.violations.map((one) => [one.impact, one.id,
    one.nodes.map((node) => `${node.target.join(" ")}: ${node.failureSummary}`).join(" || ")])),
  (error) => done([["critical", "axe failed", String(error)]]));
"""

_STILL = "return !document.getAnimations().some((one) => one instanceof CSSTransition && one.playState === 'running')"


@cache
def _axe() -> str:
    return AXE.read_text(encoding="utf-8")


def violations(browser: Browser) -> list[str]:
    """The serious and critical violations of what is to be seen now, in words."""
    assert browser.errors() == []
    # In the middle of a transition a colour is neither the one nor the other.
    browser.until(lambda: browser.script(_STILL), "no colour changes")
    browser.script(_axe())
    found = cast("list[list[str]]", browser.driver.execute_async_script(_RUN, list(STANDARDS)))  # pyright: ignore[reportUnknownMemberType]  # selenium types it in part
    browser.errors()  # axe tries inline styles, which the page's policy refuses: no fault of the page
    return [f"{rule}: {where}" for impact, rule, where in found if impact in _SERIOUS]
