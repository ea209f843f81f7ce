from __future__ import annotations

import random
import re

import pytest

from chorus_client.thinking.splitter import Channel, Part
from chorus_client.thinking.think_tags import MOST_SPACE, ThinkTagSplitter
from tests.support.cut_answers import ODD_TEXT, drawn, same_however_cut, split

RNG = random.Random(4)


def thought(text: str) -> Part:
    return Part(Channel.ANALYSIS, text)


def answer(text: str) -> Part:
    return Part(Channel.FINAL, text)


def parts_of(text: str, *, opened: bool = False) -> list[Part]:
    return same_however_cut(lambda: ThinkTagSplitter(opened=opened), text, RNG)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("<think>why</think>yes", [thought("why"), answer("yes")]),
        ("\n <think>\nwhy\n</think>\n\nyes\n", [thought("why\n"), answer("yes\n")]),
        ("<think>\n\n</think>\n\nyes", [answer("yes")]),
        ("<think></think>", []),
        ("yes", [answer("yes")]),
        (" \nyes", [answer(" \nyes")]),
        ("", []),
        ("<think>never ends", [thought("never ends")]),
        ("<think>cut off </thi", [thought("cut off </thi")]),
        ("<thi", [answer("<thi")]),
        (" \n", [answer(" \n")]),
        ("<thinking>no</thinking>", [answer("<thinking>no</thinking>")]),
        ("The tag <think> begins a </think> thought.", [answer("The tag <think> begins a </think> thought.")]),
        ("</think>yes", [answer("</think>yes")]),
        ("<think>a<think>b</think>c</think>d", [thought("a<think>b"), answer("c</think>d")]),
        ("<think>a</think>b<think>c</think>", [thought("a"), answer("b<think>c</think>")]),
        ("<think>a</think> <think>b", [thought("a"), answer("<think>b")]),
        ("<think>1 << 2 </ 3 </think</think>4", [thought("1 << 2 </ 3 </think"), answer("4")]),
        ("<think>\ud83d</think>\udc80", [thought("\ud83d"), answer("\udc80")]),
    ],
)
def test_a_thought_at_the_start_is_told_from_the_answer(text: str, parts: list[Part]) -> None:
    assert parts_of(text) == parts


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("why</think>yes", [thought("why"), answer("yes")]),
        ("\nwhy</think>\n\nyes", [thought("why"), answer("yes")]),
        ("<think>\nwhy</think>yes", [thought("why"), answer("yes")]),
        ("</think>yes", [answer("yes")]),
        ("never ends", [thought("never ends")]),
        ("<th", [thought("<th")]),
        ("<that> is</think>yes", [thought("<that> is"), answer("yes")]),
        ("", []),
    ],
)
def test_an_answer_to_a_prompt_that_opened_the_thought_begins_inside_of_it(text: str, parts: list[Part]) -> None:
    assert parts_of(text, opened=True) == parts


def test_too_much_whitespace_before_the_tag_makes_it_text() -> None:
    just = " " * MOST_SPACE + "<think>a</think>b"
    assert parts_of(just) == [thought("a"), answer("b")]
    assert parts_of(" " + just) == [answer(" " + just)]


def whole(text: str, *, opened: bool) -> list[Part]:
    """The rules once more, as one expression over the whole answer."""
    opening = r"\s*(?:<think>)?" if opened else rf"\s{{0,{MOST_SPACE}}}<think>"
    found = re.fullmatch(rf"{opening}\s*(?P<thought>.*?)(?:</think>\s*(?P<answer>.*))?", text, re.DOTALL)
    if found is None:
        return [answer(text)] if text else []
    texts = thought(found["thought"] or ""), answer(found["answer"] or "")
    return [part for part in texts if part.text]


def test_five_thousand_fuzzed_streams_are_the_same_under_every_cut_and_lose_no_character() -> None:
    rng = random.Random(20_260_401)
    vocabulary = (*ODD_TEXT, "<think>", "</think>", "<think", "/think>")
    thoughts = 0
    for number in range(5_000):
        opened = number % 3 == 0
        text = (
            drawn(rng, ("", "", " ", "\n", "<"), 1)
            + rng.choice(("<think>", "<think>", ""))
            + drawn(rng, vocabulary, 16)
        )
        parts = same_however_cut(lambda opened=opened: ThinkTagSplitter(opened=opened), text, rng)
        assert parts == whole(text, opened=opened), text
        thoughts += any(part.channel is Channel.ANALYSIS for part in parts)
    assert 1_000 < thoughts < 4_900


@pytest.mark.parametrize("character", ["x", "<", " ", "\n", "\ud800"])
@pytest.mark.parametrize("before", ["", "<think>", "<think>a", "<think>a</think>b"])
def test_a_megabyte_without_an_end_is_not_kept_back(before: str, character: str) -> None:
    splitter = ThinkTagSplitter()
    given = sum(len(part.text) for part in splitter.feed(before))
    for at in range(0, 1_000_000, 1_000):
        given += sum(len(part.text) for part in splitter.feed(character * 1_000))
        if not (character.isspace() and before == "<think>"):  # whitespace there is dropped
            assert given >= at + 1_000 - MOST_SPACE
    assert sum(len(part.text) for part in splitter.finish()) <= MOST_SPACE


def test_what_was_kept_back_comes_once() -> None:
    splitter = ThinkTagSplitter()
    assert splitter.feed("<think>a</th") == [thought("a")]
    assert splitter.finish() == [thought("</th")]
    assert splitter.finish() == []


def test_the_channel_is_known_between_pieces() -> None:
    splitter = ThinkTagSplitter()
    seen = [splitter.channel]
    for piece in ("\n", "<think>", "\n", "why", "</think>", "\n", "yes"):
        splitter.feed(piece)
        seen.append(splitter.channel)
    final, analysis = Channel.FINAL, Channel.ANALYSIS
    assert seen == [final, final, analysis, analysis, analysis, final, final, final]
    assert ThinkTagSplitter(opened=True).channel is analysis


def test_a_new_splitter_that_read_the_beginning_goes_on_with_the_answer() -> None:
    splitter = ThinkTagSplitter()
    splitter.feed("<think>the node that wrote this")
    assert split(splitter, [" died</think>", "yes"]) == [thought(" died"), answer("yes")]
