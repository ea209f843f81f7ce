"""The pages of the fleet in a real Chromium, before a real hub whose PCs are played."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Generator, Iterator
from contextlib import contextmanager

import pytest
from selenium.webdriver.common.keys import Keys

from chorus_proto.values import Courtesy
from tests.support.accessible import violations
from tests.support.browser import PHONE, WIDE, Browser
from tests.support.fake_servers import FakeServers
from tests.support.played_lan import PlayedLan, gaming_pc, office_pc, played_lan

PAGES = ("fleet", "chat", "ask", "documents", "models", "queue", "servers", "join", "keys")
SETTLED = {
    "fleet": ".node",
    "models": ".model",
    "queue": ".empty h2",
    "servers": "[data-name=coder]",
    "join": ".qr-code",
    "keys": ".empty h2",
}
"""What shows that the page has all it waits for."""


@pytest.fixture(scope="module")
def lan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlayedLan]:
    pcs = (
        gaming_pc("attic", "llama3.1:8b", "qwen3:14b"),
        office_pc("cellar", "llama3.2:3b", "qwen3:0.6b"),
        office_pc("kitchen", "llama3.2:1b", ram_gib=8),
    )
    folder = tmp_path_factory.mktemp("pages")
    with played_lan(folder, *pcs, servers=FakeServers("coder", "writer")) as lan:
        lan.until_ready("attic", "cellar", "kitchen")
        lan.be_polite("kitchen", Courtesy(paused=True, reason="its owner is at the keyboard"))
        yield lan


def opened(browser: Browser, lan: PlayedLan, page: str) -> None:
    browser.open(lan.url, page)
    browser.one(SETTLED.get(page, "main h1"))


def card(name: str, state: str = "ok") -> str:
    return f"article[data-name='{name}'][data-state={state}]"


@contextmanager
def asking(lan: PlayedLan, model: str) -> Generator[None]:
    """A question whose answer is held back while the block runs."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "one two three"}]}).encode()
    request = urllib.request.Request(f"{lan.url}/v1/chat/completions", body, {"content-type": "application/json"})

    def ask() -> None:
        with urllib.request.urlopen(request, timeout=30) as answer:
            answer.read()

    for name in lan.pcs:
        lan.hold_answers(name, hold=True)
    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        for name in lan.pcs:
            lan.hold_answers(name, hold=False)
        thread.join(30)


# What happens, as it happens ------------------------------------------------------------------------------------------


def test_a_pc_that_joins_appears_on_the_page_that_told_how_and_in_the_fleet(browser: Browser, lan: PlayedLan) -> None:
    opened(browser, lan, "join")
    browser.until_text("pre", "agent --join 192.168.1.10:50051")
    lan.join(office_pc("newcomer", "qwen3:0.6b"))
    assert "has joined" in browser.one(".newcomer[data-name=newcomer]").text
    browser.screenshot("join-newcomer")
    browser.click(".newcomer a")
    browser.one(card("newcomer"))


def test_a_token_is_made_on_the_page_and_stands_in_its_commands(browser: Browser, lan: PlayedLan) -> None:
    opened(browser, lan, "join")
    browser.until_text("[role=tabpanel]:not([hidden]) pre", "echo TOKEN | ")
    uses = browser.one("#token-uses")
    uses.clear()
    uses.send_keys("3")
    browser.click("form button[type=submit]")
    browser.until_text("form [role=status]", "admits 3 PCs until")
    browser.until_text("[role=tabpanel]:not([hidden]) pre", f"echo chorus1.{'ab' * 32}.")
    browser.screenshot("join-token")


def test_a_pc_that_loses_its_power_turns_red(browser: Browser, lan: PlayedLan) -> None:
    lan.join(office_pc("victim", "qwen3:0.6b"))
    opened(browser, lan, "fleet")
    browser.one(card("victim"))
    lan.cut("victim")
    browser.one(card("victim", "bad"))
    assert "dead" in browser.text(card("victim", "bad") + " .badge")
    browser.screenshot("fleet-dead")


def test_a_pc_in_polite_pause_says_why(browser: Browser, lan: PlayedLan) -> None:
    opened(browser, lan, "fleet")
    assert "its owner is at the keyboard" in browser.text(card("kitchen", "rest") + " .why")


def test_a_model_loads_with_progress_and_is_freed_again(browser: Browser, lan: PlayedLan) -> None:
    cellar = lan.pcs["cellar"]
    cellar.loads_by_themselves = False
    opened(browser, lan, "models")
    model = "article[data-model='llama3.2:3b']"
    row = f"{model} tbody tr"
    browser.click(f"{model} summary")
    browser.click(f"{model} button[aria-label$='on cellar']")
    bar = f"{model} [role=progressbar]"
    first = float(browser.until(lambda: browser.one(bar).get_attribute("aria-valuenow"), "a share of the load"))
    browser.screenshot("models-loading")
    lan.let_load("cellar", 2)
    browser.until(lambda: float(browser.one(bar).get_attribute("aria-valuenow") or 0) > first, "progress of the load")
    lan.let_load("cellar")
    cellar.loads_by_themselves = True
    browser.until_gone(bar)
    browser.until_text(row, "in memory")
    browser.click(f"{model} button[aria-label='Unload: llama3.2:3b on cellar']")
    browser.one(f"{model} button[aria-label='Load: llama3.2:3b on cellar']")


def test_the_memory_of_a_model_is_told_in_words_and_grows_with_the_context(browser: Browser, lan: PlayedLan) -> None:
    opened(browser, lan, "models")
    words = "article[data-model='llama3.1:8b'] .sum"
    before = browser.until_text(words, "Needs 5.3 GiB = ").text
    assert "weights + 512 MiB memory of the conversation" in before
    browser.one("#what-if-context").send_keys("32k")
    browser.until_text(words, "4.0 GiB memory of the conversation")


def test_who_serves_whom_is_drawn_while_it_runs_and_the_queue_names_it(browser: Browser, lan: PlayedLan) -> None:
    opened(browser, lan, "fleet")
    browser.until_text("section", "Nothing runs right now.")
    with asking(lan, "llama3.1:8b"):
        browser.until_text(".serving-picture .serves", "attic")
        browser.until_text("[data-name=attic] .slots", "1 of")
        browser.screenshot("fleet-serving")
        browser.open(lan.url, "queue")
        browser.until_text("main", "llama3.1:8b")
        assert "1 slot (100 %)" in browser.until_text(".meter", "this PC").text
        browser.screenshot("queue-running")
    browser.until_text("main", "Nobody waits, nothing runs")


def test_the_queue_explains_where_a_request_would_go(browser: Browser, lan: PlayedLan) -> None:
    opened(browser, lan, "queue")
    browser.until_text("#explain-model", "llama3.1:8b")
    browser.one("#explain-model").send_keys("llama3.1:8b")
    browser.click(".explain button")
    browser.until_text("[aria-live=polite] p", "attic would run it")
    browser.until_text("[aria-live=polite] tbody", "does not have the model")


def test_a_second_local_server_starts_only_after_somebody_said_so(browser: Browser, lan: PlayedLan) -> None:
    opened(browser, lan, "servers")
    browser.click("[data-act='start coder']")
    browser.one("[data-act='stop coder']")
    browser.click("[data-act='start writer']")
    assert "writer needs 4.1 GB" in browser.text("dialog")
    browser.screenshot("servers-asks")
    browser.keys(Keys.ESCAPE)
    browser.one("[data-act='start writer']:not(:disabled)")
    browser.click("[data-act='start writer']")
    browser.click("dialog .primary")
    browser.one("[data-act='stop writer']")
    browser.click("[data-act='switch writer']")
    browser.until_text("[data-name=writer] header", "default")
    browser.screenshot("servers-running")
    browser.click("[data-act='stop coder']")
    browser.click("[data-act='stop writer']")
    browser.one("[data-act='start writer']")


def test_a_server_that_is_away_is_said_to_be_and_its_return_noticed(browser: Browser, lan: PlayedLan) -> None:
    opened(browser, lan, "fleet")
    browser.one(card("attic"))
    browser.offline(offline=True)
    try:
        browser.until_text(".banner", "does not answer")
        assert browser.all(card("attic")), "what was known stays to be seen"
        browser.screenshot("fleet-away")
    finally:
        browser.offline(offline=False)
    browser.until(lambda: not browser.one(".banner").text, "the banner gone")


# Keys and policy ------------------------------------------------------------------------------------------------------


def test_text_that_is_put_in_as_markup_is_refused_by_the_browser_itself(browser: Browser, lan: PlayedLan) -> None:
    opened(browser, lan, "fleet")
    tried = browser.script(
        "try { document.body.innerHTML = '<b>x</b>'; return 'taken'; } catch (error) { return error.name; }"
    )
    assert tried == "TypeError"
    assert any("TrustedHTML" in one for one in browser.errors())


def test_a_page_that_there_is_not_leads_back(browser: Browser, lan: PlayedLan) -> None:
    browser.open(lan.url, "no-such-page")
    assert "no such page" in browser.text("main h1")
    browser.click("main a")
    browser.one(card("attic"))


# For everybody --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_no_page_has_a_serious_barrier_in_either_theme(browser: Browser, lan: PlayedLan, page: str) -> None:
    opened(browser, lan, page)
    for theme in ("light", "dark"):
        browser.theme(theme)
        assert violations(browser) == [], theme
        browser.screenshot(f"{page}-{theme}")


@pytest.mark.parametrize("page", PAGES)
def test_every_page_fits_a_phone(browser: Browser, lan: PlayedLan, page: str) -> None:
    browser.size(*PHONE)
    opened(browser, lan, page)
    assert browser.sideways_px() == 0
    browser.screenshot(f"{page}-phone")


def test_the_navigation_of_a_phone_opens_and_closes(browser: Browser, lan: PlayedLan) -> None:
    browser.size(*PHONE)
    opened(browser, lan, "fleet")
    browser.click(".menu")
    browser.screenshot("menu-phone")
    browser.click("nav a[href='#/models']")
    browser.one(".model")
    assert not browser.one("nav").is_displayed()
    browser.size(*WIDE)
    assert browser.one("nav").is_displayed()


def test_everything_can_be_reached_and_done_with_the_keyboard_alone(browser: Browser, lan: PlayedLan) -> None:
    opened(browser, lan, "fleet")
    browser.keys(Keys.TAB)
    assert browser.focused().text == "Skip to the content"
    browser.keys(Keys.ENTER)
    assert browser.focused().tag_name == "main"
    browser.keys(Keys.TAB)
    assert "Place models anew" in browser.focused().text
    browser.keys(Keys.ENTER)
    browser.one("dialog")
    browser.keys(Keys.ESCAPE)
    browser.until_gone("dialog")
    assert "Place models anew" in browser.focused().text, "the focus is back where it was"
    browser.keys(Keys.TAB, Keys.ENTER)
    browser.one(".qr-code")
    chosen = browser.one("[role=tab][aria-selected=true]")
    browser.script("arguments[0].focus()", chosen)
    browser.keys(Keys.ARROW_RIGHT)
    assert browser.focused().get_attribute("aria-selected") == "true"
    assert browser.focused().text != chosen.text


def test_the_theme_can_be_chosen_and_is_kept(browser: Browser, lan: PlayedLan) -> None:
    opened(browser, lan, "queue")
    light = browser.script("return getComputedStyle(document.body).color")
    browser.click(".theme")
    browser.until_text(".theme", "light")
    browser.click(".theme")
    browser.until_text(".theme", "dark")
    assert browser.script("return getComputedStyle(document.body).color") != light
    browser.open(lan.url, "queue")
    browser.until_text(".theme", "dark")
    browser.click(".theme")
    browser.until_text(".theme", "system")
