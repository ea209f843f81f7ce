"""The ask-all page in a real Chromium: every PC's answer fills in live, then the one that is made of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

from tests.support.accessible import violations
from tests.support.browser import PHONE, Browser
from tests.support.played_lan import PlayedLan, gaming_pc, played_lan

NAMES = ("attic", "cellar", "garage")


@pytest.fixture(scope="module")
def lan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlayedLan]:
    pcs = [gaming_pc(name, "llama3.2:3b") for name in NAMES]
    with played_lan(tmp_path_factory.mktemp("ask"), *pcs) as lan:
        yield lan


@pytest.fixture
def page(browser: Browser, lan: PlayedLan) -> Browser:
    browser.open(lan.url, "ask")
    browser.until(lambda: len(browser.all(".pc")) == len(NAMES), "every PC can be asked")
    return browser


def ask(page: Browser, words: str) -> None:
    page.one(".composer textarea").send_keys(words, Keys.ENTER)


def card(page: Browser, name: str, state: str) -> str:
    """The text of this PC's card, once it is in this state."""
    found = page.until(
        lambda: next((one for one in page.all(f".answer[data-state={state}]") if name in one.text), None),
        f"{name} is {state}",
    )
    return found.text


def test_every_pc_answers_in_its_card_and_the_aggregate_follows(page: Browser, lan: PlayedLan) -> None:
    lan.hold_answers("garage", hold=True)
    try:
        ask(page, "are you there")
        for name in ("attic", "cellar"):
            shown = card(page, name, "done")
            assert f"{name} answers: are you there" in shown
            assert "tokens" in shown
        assert "Answering" in card(page, "garage", "answering")
        assert "2 of 3" in page.text(".together .badge")
        assert not page.all(".together[data-state=done]")
        assert violations(page) == []
        page.screenshot("ask-filling")
    finally:
        lan.hold_answers("garage", hold=False)
    card(page, "garage", "done")
    page.one(".together[data-state=done]")
    assert "3 of 3 PCs" in page.text(".together .badge")
    assert "answers: are you there" in page.text(".together .prose")
    page.screenshot("ask-done")


def test_one_who_does_not_come_in_time_is_shown_late(page: Browser, lan: PlayedLan) -> None:
    Select(page.one("[aria-label='How long is waited']")).select_by_value("10")
    page.script("document.querySelector(\"[aria-label='How long is waited'] option\").value = '3'")
    lan.hold_answers("cellar", hold=True)
    try:
        ask(page, "quickly now")
        page.one(".together[data-state=done]")
    finally:
        lan.hold_answers("cellar", hold=False)
    late = page.until(lambda: next((one for one in page.all(".answer") if "cellar" in one.text), None), "cellar's card")
    assert late.get_attribute("data-state") in ("late", "spared")
    assert "2 of 3 PCs" in page.text(".together .badge")


def test_who_is_not_chosen_is_not_asked(page: Browser, lan: PlayedLan) -> None:
    page.until(lambda: [one for one in page.all(".pc") if "cellar" in one.text], "cellar can be chosen")[0].click()
    ask(page, "only some")
    page.one(".together[data-state=done]")
    names = {one.text.split("\n")[0] for one in page.all(".answers .answer")}
    assert names == {"attic", "garage"}


def test_a_question_can_be_stopped(page: Browser, lan: PlayedLan) -> None:
    for name in NAMES:
        lan.hold_answers(name, hold=True)
    try:
        ask(page, "never mind")
        card(page, "attic", "answering")
        page.click(".composer button[aria-label=Stop]")
        page.one(".together[data-state=failed]")
        page.one(".composer button[aria-label=Send]")
        page.until(lambda: not any(lan.pcs[name].generating for name in NAMES), "nobody goes on answering")
    finally:
        for name in NAMES:
            lan.hold_answers(name, hold=False)


def test_it_fits_a_phone_in_the_dark(page: Browser, lan: PlayedLan) -> None:
    page.size(*PHONE)
    page.theme("dark")
    page.one(".composer textarea").send_keys("does it fit")
    page.click(".composer button[type=submit]")
    page.one(".together[data-state=done]")
    assert page.sideways_px() == 0
    assert violations(page) == []
    page.screenshot("ask-phone-dark")
