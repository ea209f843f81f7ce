"""The parts of the chat that are no page: thoughts told from answers, events put together, texts that grow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import pytest

from tests.support.browser import Browser
from tests.support.played_lan import PlayedLan, played_lan


@pytest.fixture(scope="module")
def lan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlayedLan]:
    with played_lan(tmp_path_factory.mktemp("words")) as lan:
        yield lan


@pytest.fixture
def page(browser: Browser, lan: PlayedLan) -> Browser:
    browser.open(lan.url, "chat")
    browser.one(".composer textarea")
    return browser


def run(page: Browser, module: str, code: str, *arguments: object) -> object:
    """The value of `code`, in which `module` is the page's module of that path."""
    load = """
        const base = document.querySelector('link[href$="style/shell.css"]').href.replace("style/shell.css", "");
        const module = await import(base + arguments[0]);
        const given = [...arguments].slice(1);
    """
    return page.script(load + code, module, *arguments)


THOUGHTS = [
    ("Plain.", True, "", "Plain.", False),
    ("<think>a</think>\n\nb", True, "a", "b", False),
    ("  <THINK>\na\n</THINK>b", True, "a", "b", False),
    ("<think>still at", False, "still at", "", True),
    ("<think>almost</thi", False, "almost", "", True),
    ("<think>never ended", True, "never ended", "", False),
    ("<thi", False, "", "", False),
    ("<thi", True, "", "<thi", False),
    ("opened before\n</think>\nb", True, "opened before", "b", False),
    ("the tag `</think>` is text", True, "", "the tag `</think>` is text", False),
    ("x <think>a</think>", True, "", "x <think>a</think>", False),
    (
        "<|channel|>analysis<|message|>why<|end|><|start|>assistant<|channel|>final<|message|>so",
        True,
        "why",
        "so",
        False,
    ),
    ("<|channel|>analysis<|message|>wh", False, "wh", "", True),
]
"""Text, whether it has ended; then thought, answer, and whether the model still thinks."""


def test_thoughts_are_told_from_the_answer(page: Browser) -> None:
    split = "return given[0].map(([text, ended]) => Object.values(module.split(text, {ended})))"
    found = run(page, "words/thoughts.js", split, THOUGHTS)
    assert found == [list(case[2:]) for case in THOUGHTS]


def test_a_tab_that_joins_late_shows_each_word_once(page: Browser) -> None:
    play = """
        const talk = new module.Conversation();
        const said = [];
        for (const [kind, body] of given[0]) { talk.apply(kind, body); said.push(talk.running?.content ?? null); }
        return said;
    """
    running = {"message_id": "m", "parent_id": "q", "model": "x", "node": "n", "content": "one two"}
    events: list[tuple[str, dict[str, object]]] = [
        ("snapshot", {"session": {"revision": 2}, "running": running}),
        ("delta", {"message_id": "m", "at": 3, "text": " two"}),
        ("delta", {"message_id": "m", "at": 7, "text": " three"}),
        ("delta", {"message_id": "another", "at": 0, "text": "lost"}),
    ]
    said = run(page, "pages/chat/conversation.js", play, events)
    assert said == ["one two", "one two", "one two three", "one two three"]


def test_an_answer_that_is_over_is_not_begun_again_by_what_comes_late(page: Browser) -> None:
    play = """
        const talk = new module.Conversation();
        for (const [kind, body] of given[0]) talk.apply(kind, body);
        return [talk.running, talk.messages.map((one) => one.content)];
    """
    session = {"revision": 3, "head": "m"}
    message = {"id": "m", "parent_id": None, "role": "assistant", "content": "whole"}
    begun = {"message_id": "m", "parent_id": None, "content": ""}
    events = [
        ("finished", {"message": message, "session": session}),
        ("started", begun),
        ("delta", {"message_id": "m"}),
    ]
    assert run(page, "pages/chat/conversation.js", play, events) == [None, ["whole"]]


def test_an_older_reading_of_a_chat_does_not_replace_what_is_known(page: Browser) -> None:
    play = """
        const talk = new module.Conversation();
        const whole = (revision, content) => ({revision, messages: [{id: "a", content}], running: null});
        return [talk.load(whole(5, "new")), talk.load(whole(4, "old")), talk.messages[0].content];
    """
    assert run(page, "pages/chat/conversation.js", play) == [True, False, "new"]


def test_a_growing_text_is_drawn_as_the_whole_would_be_and_keeps_its_settled_blocks(page: Browser) -> None:
    listed = "- one\n- two\n\n  more of two\n\n"
    text = f"# Title\n\nSome *words*.\n\n{listed}```py\nx = 1\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n"
    play = """
        const grown = new module.Prose(), whole = new module.Prose();
        const [text] = given;
        for (let length = 1; length < text.length; length += 3) grown.show(text.slice(0, length));
        const title = grown.element.querySelector("h3");
        grown.show(text);
        whole.show(text);
        return [grown.element.isEqualNode(whole.element), title === grown.element.querySelector("h3")];
    """
    assert run(page, "words/prose.js", play, text) == [True, True]


def test_a_long_answer_draws_no_more_at_its_end_than_at_its_beginning(page: Browser) -> None:
    play = """
        const prose = new module.Prose();
        const paragraph = "Some *words* of a paragraph, and `code` and more of it.\\n\\n";
        const create = document.createElement;
        let made = 0;
        document.createElement = function (...given) { made += 1; return create.apply(this, given); };
        let text = "";
        const grow = (times) => {
          made = 0;
          for (let time = 0; time < times; time += 1) prose.show((text += paragraph));
          return made;
        };
        grow(10);
        const early = grow(50);
        grow(500);
        const late = grow(50);
        document.createElement = create;
        return [early, late];
    """
    early, late = cast("list[int]", run(page, "words/prose.js", play))
    assert late == early
