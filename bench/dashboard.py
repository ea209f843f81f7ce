"""What the web page costs: `python -m bench.dashboard [--pcs 50] [--quick]`, run from the project's root.

A hub with emulated PCs and a headless Chromium on the same machine. First paint and the moment when every PC is shown,
with an empty cache; bytes over the wire; the browser's CPU while the page is open and nothing runs; from a change on a
PC to its card.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import cast

import psutil

from bench.load import percentile
from chorus_http.dashboard_files import dashboard
from chorus_proto.values import ALL_OURS, Courtesy
from tests.support.browser import Browser, chromium
from tests.support.played_lan import PlayedLan, office_pc, played_lan

_PAINT = "return performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null"
_SHOWN = """
const [pcs, done] = arguments;
const all = () => document.querySelectorAll(".node").length >= pcs;
const look = () => (all() ? done(performance.now()) : requestAnimationFrame(look));
look();
"""
_WIRE = """
return performance.getEntriesByType("resource").filter((one) => one.name.includes("/ui/"))
  .concat(performance.getEntriesByType("navigation")).reduce((sum, one) => sum + one.transferSize, 0)
"""
_WATCH = """
const badge = document.querySelector("[data-name='pc-00'] .badge");
window.seen = [];
const saw = new MutationObserver(() => window.seen.push([Date.now(), badge.textContent]));
saw.observe(badge, {subtree: true, childList: true, characterData: true});
"""


def opened(browser: Browser, lan: PlayedLan, pcs: int) -> tuple[float, float, int]:
    """Of a load with an empty cache: ms to the first paint, ms until all PCs are shown, bytes over the wire."""
    driver = browser.driver
    driver.execute_cdp_cmd("Network.enable", {})  # pyright: ignore[reportUnknownMemberType]  # selenium types it in part
    driver.execute_cdp_cmd("Network.clearBrowserCache", {})  # pyright: ignore[reportUnknownMemberType]  # as above
    browser.open(lan.url)
    shown_ms = cast("float", driver.execute_async_script(_SHOWN, pcs))  # pyright: ignore[reportUnknownMemberType]  # as above
    paint_ms = cast("float", browser.until(lambda: browser.script(_PAINT), "the first paint"))
    return paint_ms, shown_ms, cast("int", browser.script(_WIRE))


def idle_share(browser: Browser, seconds: float) -> float:
    """CPU of all of the browser's processes, in cores."""
    service = cast("psutil.Popen", browser.driver.service.process)
    processes = psutil.Process(service.pid).children(recursive=True)

    def busy_s() -> float:
        return sum(times.user + times.system for times in (one.cpu_times() for one in processes if one.is_running()))

    time.sleep(3)
    began_s, before_s = time.monotonic(), busy_s()
    time.sleep(seconds)
    return (busy_s() - before_s) / (time.monotonic() - began_s)


def delays_ms(browser: Browser, lan: PlayedLan, times: int) -> list[float]:
    """From the moment when a PC says that it rests, or that it no longer does, until its card says so."""
    browser.script(_WATCH)
    found: list[float] = []
    for turn in range(times):
        words = "alive" if turn % 2 else "polite pause"
        said_ms = time.time() * 1000
        lan.be_polite("pc-00", ALL_OURS if turn % 2 else Courtesy(paused=True, reason="somebody is here"))
        seen_ms = browser.until(
            lambda words=words, turn=turn: _seen(browser, words, turn + 1), f"the card says {words}"
        )
        found.append(seen_ms - said_ms)
        time.sleep(0.1)
    return found


def _seen(browser: Browser, words: str, count: int) -> float | None:
    seen = cast("list[tuple[float, str]]", browser.script("return window.seen"))
    return seen[-1][0] if len(seen) >= count and seen[-1][1] == words else None


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pcs", type=int, default=50)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    turns, idle_s, events = (2, 5.0, 6) if arguments.quick else (7, 30.0, 40)

    files = [dashboard().page, *dashboard().assets.values()]
    whole = sum(len(one.body if one.packed is None else one.packed) for one in files)
    told("every file of the page, over the wire", f"{whole / 1000:.0f} kB in {len(files)} files (aim 300)")
    pcs = [office_pc(f"pc-{number:02}", "llama3.2:1b") for number in range(arguments.pcs)]
    with (
        tempfile.TemporaryDirectory() as folder,
        chromium() as browser,
        played_lan(Path(folder), *pcs, heartbeat_s=1.0, suspect_after_s=10.0, dead_after_s=30.0) as lan,
    ):
        lan.until_ready(*(pc.name for pc in pcs))
        loads = [opened(browser, lan, arguments.pcs) for _ in range(turns)]
        told("first load of the fleet's page", f"{loads[-1][2] / 1000:.0f} kB")
        told(f"first paint, {arguments.pcs} PCs, empty cache", f"{median(one[0] for one in loads):.0f} ms (aim 1,000)")
        told("every PC shown", f"{median(one[1] for one in loads):.0f} ms")
        told("browser, page open, nothing runs", f"{idle_share(browser, idle_s):.1%} of a core (aim 5 %)")
        delays = delays_ms(browser, lan, events)
        worst = percentile(delays, 0.95)
        told("from a change on a PC to its card", f"p50 {median(delays):.0f} ms, p95 {worst:.0f} ms (aim 100)")


def told(what: str, figure: str) -> None:
    print(f"{what:<42} {figure}", flush=True)


if __name__ == "__main__":
    main()
