"""The documents page in a real Chromium: in by file, drop and paste; found, marked, and answered with citations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys

from chorus_http.rag.opening import LibraryDoor
from chorus_http.settings import HttpSettings
from chorus_proto.clock import SystemClock
from tests.support.accessible import violations
from tests.support.browser import PHONE, Browser
from tests.support.embedder import WordEmbedder
from tests.support.played_lan import PlayedLan, gaming_pc, played_lan

FIELD = ".finder textarea"


@pytest.fixture(scope="module")
def lan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlayedLan]:
    folder = tmp_path_factory.mktemp("documents")
    settings = replace(HttpSettings(), http_port=0, drain_within_s=0.2, state_dir=folder / "http")
    settings.state_dir.mkdir()
    door = LibraryDoor(settings, WordEmbedder(), SystemClock())
    with played_lan(folder, gaming_pc("attic", "llama3.2:3b"), http=settings, documents=door) as lan:
        try:
            yield lan
        finally:
            lan.call(door.close())


def opened(browser: Browser, lan: PlayedLan, collection: str) -> Browser:
    """The page, with a collection of the test's own."""
    browser.open(lan.url, f"documents?collection={collection}")
    browser.one(".drop-zone")
    return browser


def uploaded(page: Browser, path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    page.one("input[type=file]").send_keys(str(path))
    page.until_text(".upload .badge", "Added")


def test_an_uploaded_file_answers_a_question_with_the_passage_it_comes_from(
    browser: Browser, lan: PlayedLan, tmp_path: Path
) -> None:
    page = opened(browser, lan, "leave")
    uploaded(page, tmp_path / "handbook.md", "# Handbook\n\nThere are thirty days of leave.")
    page.until_text(".document-list", "Handbook")
    page.one(FIELD).send_keys("how many days of leave", Keys.ENTER)
    # The engine says its prompt back, and that names passage 1.
    page.until_text(".found .sources summary", "cited")
    page.click(".found .cite")
    page.until(lambda: "thirty days of leave" in page.focused().text, "the passage has the focus")
    assert violations(page) == []
    page.screenshot("documents-answer")


def test_a_search_shows_scores_and_marks_the_words(browser: Browser, lan: PlayedLan, tmp_path: Path) -> None:
    page = opened(browser, lan, "animals")
    uploaded(page, tmp_path / "zebra.txt", "The zebra is striped. <b>Bold</b> it is not.")
    page.click(".switch label:nth-child(2)")
    page.one(FIELD).send_keys("striped zebra", Keys.ENTER)
    page.until_text(".passage mark", "zebra")
    assert {mark.text for mark in page.all(".passage mark")} == {"zebra", "striped"}
    assert "score" in page.text(".passage .badge")
    assert "<b>Bold</b>" in page.text(".passage")
    page.theme("dark")
    assert violations(page) == []
    page.screenshot("documents-search")


def test_a_dropped_file_and_a_pasted_text_come_in(browser: Browser, lan: PlayedLan) -> None:
    page = opened(browser, lan, "dropped")
    page.script(
        """
        const transfer = new DataTransfer();
        transfer.items.add(new File(["Dropped words."], "dropped.txt", {type: "text/plain"}));
        const root = document.querySelector(".page.documents");
        for (const kind of ["dragover", "drop"])
          root.dispatchEvent(new DragEvent(kind, {dataTransfer: transfer, bubbles: true, cancelable: true}));
        """
    )
    page.until_text(".document-list", "dropped")
    page.click(".drop-zone button:not(.primary)")
    page.one("#paste-title").send_keys("Pasted one")
    page.one("#paste-text").send_keys("Pasted words.")
    page.click("dialog button.primary")
    page.until_text(".document-list", "Pasted one")


def test_what_cannot_be_read_says_why(browser: Browser, lan: PlayedLan, tmp_path: Path) -> None:
    page = opened(browser, lan, "bad")
    path = tmp_path / "broken.pdf"
    path.write_bytes(b"%PDF-1.7\nnot really")
    page.one("input[type=file]").send_keys(str(path))
    page.until_text(".upload .badge", "Not added")
    assert page.one(".upload .problem").text


def test_a_document_is_deleted_after_a_question(browser: Browser, lan: PlayedLan, tmp_path: Path) -> None:
    page = opened(browser, lan, "short")
    uploaded(page, tmp_path / "short.txt", "Not for long.")
    page.click(".document button")
    page.until_text("dialog", "no longer found")
    page.keys(Keys.ESCAPE)
    page.until_gone("dialog")
    assert page.all(".document")
    page.click(".document button")
    page.click("dialog button.danger")
    page.until_text(".page.documents", "Nothing is here yet.")


def test_a_chat_is_answered_from_a_collection(browser: Browser, lan: PlayedLan, tmp_path: Path) -> None:
    page = opened(browser, lan, "menus")
    uploaded(page, tmp_path / "lunch.txt", "Lunch is at noon.")
    page.script("localStorage.setItem('chorus.chat.collection', 'menus')")
    page.open(lan.url, "chat")
    page.until_text(".documents-choice option:checked", "menus")
    page.one(".composer textarea").send_keys("when is lunch", Keys.ENTER)
    page.until_text(".theirs .sources summary", "cited")
    page.click(".theirs .cite")
    page.until(lambda: "Lunch is at noon." in page.focused().text, "the passage has the focus")


def test_it_fits_a_phone_in_the_dark(browser: Browser, lan: PlayedLan) -> None:
    page = opened(browser, lan, "leave")
    page.size(*PHONE)
    page.theme("dark")
    page.until_text(".document-list", "Handbook")
    assert page.sideways_px() == 0
    page.screenshot("documents-phone-dark")
