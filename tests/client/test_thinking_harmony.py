from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pytest

from chorus_client.thinking.harmony import LONGEST_HEADER, MOST_SPACE, HarmonySplitter
from chorus_client.thinking.splitter import Channel, Part, merged
from tests.support.cut_answers import ODD_TEXT, drawn, same_however_cut, split

RNG = random.Random(20)
RECORDED = Path(__file__).parents[1] / "data" / "harmony_oracle.json"
CALL = '{"city":"Wien"}'


def analysis(text: str, recipient: str = "") -> Part:
    return Part(Channel.ANALYSIS, text, recipient)


def commentary(text: str, recipient: str = "") -> Part:
    return Part(Channel.COMMENTARY, text, recipient)


def final(text: str) -> Part:
    return Part(Channel.FINAL, text)


def parts_of(text: str) -> list[Part]:
    return same_however_cut(HarmonySplitter, text, RNG)


def test_the_formats_own_example_is_split() -> None:
    text = (
        '<|channel|>analysis<|message|>User asks: "What is 2 + 2?" Simple arithmetic. Provide answer.<|end|>\n'
        "<|start|>assistant<|channel|>final<|message|>2 + 2 = 4.<|return|>"
    )
    thought = 'User asks: "What is 2 + 2?" Simple arithmetic. Provide answer.'
    assert parts_of(text) == [analysis(thought), final("2 + 2 = 4.")]


@pytest.mark.parametrize(
    "header",
    [
        "<|channel|>commentary to=functions.weather <|constrain|>json",
        "<|channel|>commentary to=functions.weather<|constrain|>json",
        "<|channel|>commentary to=functions.weather json",
        "<|channel|>commentary to=functions.weather",
        "<|channel|>commentary functions.weather <|constrain|>json",
        " to=functions.weather<|channel|>commentary <|constrain|> json",
        "<|start|>assistant to=functions.weather<|channel|>commentary<|constrain|>json",
        "to=functions.weather",
    ],
)
def test_a_tool_call_names_its_recipient_wherever_the_header_has_it(header: str) -> None:
    assert parts_of(f"{header}<|message|>{CALL}<|call|>") == [commentary(CALL, "functions.weather")]


def test_thought_preamble_and_call_are_three_parts() -> None:
    text = (
        "<|channel|>analysis<|message|>Need two tools.<|end|><|start|>assistant<|channel|>commentary<|message|>"
        "I look it up.<|end|><|start|>assistant<|channel|>analysis to=python code<|message|>1+1<|call|>"
    )
    assert parts_of(text) == [analysis("Need two tools."), commentary("I look it up."), analysis("1+1", "python")]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", []),
        ("<|return|>", []),
        ("Hello", [final("Hello")]),
        ("  t", [final("  t")]),
        ("1 < 2 <|end|>", [final("1 < 2 ")]),
        ("<|message|>Hello<|return|>", [final("Hello")]),
        ("<|start|>assistant<|message|>Hello", [final("Hello")]),
        ("<|channel|>final json<|message|>{}<|return|>", [final("{}")]),
        ("<|channel|>final <|constrain|>json<|message|>{}<|return|>", [final("{}")]),
        ("<|channel|>confidence<|message|>0.8<|end|>", [commentary("0.8")]),
        ("<|channel|><|message|>Hello", [final("Hello")]),
        ("<|start|>user<|message|>And now?<|end|>", [commentary("And now?")]),
        ("<|start|>functions.f to=assistant<|channel|>commentary<|message|>4<|end|>", [commentary("4")]),
    ],
)
def test_headers_that_lack_something_are_read_without_losing_text(text: str, parts: list[Part]) -> None:
    assert parts_of(text) == parts


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("<|channel|>analysis<|message|>a<|end|>b<|end|>c", [analysis("abc")]),
        ("<|channel|>final<|message|>a<|end|> \n b", [final("a \n b")]),
        ("<|channel|>final<|message|>a<|end|>\n<|return|>\n", [final("a")]),
        ("<|channel|>analysis<|message|>a<|end|><|channel|>final<|message|>b", [analysis("a"), final("b")]),
        ("<|channel|>final<|message|>say <|start|>user<|channel|>", [final("say <|start|>user<|channel|>")]),
        ("<|channel|>final<|message|>a<|message|>b<|constrain|>c", [final("a<|message|>b<|constrain|>c")]),
        ("<|channel|>analysis We think<|end|><|start|>assistant<|message|>b", [analysis("We think"), final("b")]),
        ("<|channel|>analysis<|start|>assistant<|channel|>final<|message|>b", [final("b")]),
        ("<|start|><|start|>assistant<|channel|>final<|message|>b", [final("b")]),
        ("<|end|><|end|><|channel|>analysis<|message|>a", [analysis("a")]),
        ("<|foo|>bar", [final("<|foo|>bar")]),
    ],
)
def test_stray_markers_neither_lose_text_nor_show_a_thought_as_the_answer(text: str, parts: list[Part]) -> None:
    assert parts_of(text) == parts


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("<|channel|>final<|message|>Hel", [final("Hel")]),
        ("<|channel|>final<|message|>Hel<|e", [final("Hel<|e")]),
        ("<|channel|>analysis", []),
        ("<|channel|>ana", []),
        ("<|channel|>commentary to=functions.wea", []),
        ("<|channel|>analysis<|message|>a<|end|><|start|>assist", [analysis("a")]),
        ("<|channel|>analysis<|message|>a<|end|><|start|>assistant<|chan", [analysis("a")]),
        ("<|channel|>analysis<|message|>a<|end|>\n", [analysis("a")]),
        ("<", [final("<")]),
        ("to", [final("to")]),
    ],
)
def test_an_answer_may_stop_anywhere(text: str, parts: list[Part]) -> None:
    assert parts_of(text) == parts


def test_what_the_reference_library_read_is_read_alike() -> None:
    cases = msgspec.json.decode(RECORDED.read_bytes(), type=list[tuple[str, list[tuple[Channel, str, str]]]])
    assert len(cases) > 30
    for text, messages in cases:
        expected = merged(Part(channel, content, recipient) for channel, content, recipient in messages if content)
        assert parts_of(text) == expected, text


HEADERS = (
    ("<|channel|>analysis", Channel.ANALYSIS, ""),
    ("<|channel|>final", Channel.FINAL, ""),
    ("<|channel|>commentary", Channel.COMMENTARY, ""),
    ("<|channel|>commentary to=functions.f <|constrain|>json", Channel.COMMENTARY, "functions.f"),
    (" to=browser.open<|channel|>analysis code", Channel.ANALYSIS, "browser.open"),
    ("", Channel.FINAL, ""),
)
MARKERS = ("<|start|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|end|>", "<|return|>", "<|call|>")


def test_four_thousand_fuzzed_well_formed_streams_come_back_byte_for_byte_under_every_cut() -> None:
    rng = random.Random(1_200)
    content = (*ODD_TEXT, *MARKERS[:4], "<|en", "d|>", "<|ret")
    for _ in range(4_000):
        text, expected = "", list[Part]()
        for number in range(rng.randint(1, 4)):
            header, channel, recipient = rng.choice(HEADERS)
            said = drawn(rng, content, 6).replace("<|end|>", "")
            start = "<|start|>assistant" if number or rng.random() < 0.3 else ""
            text += f"{start}{header}<|message|>{said}{rng.choice(MARKERS[4:])}{rng.choice(('', '', ' ', chr(10)))}"
            expected += [Part(channel, said, recipient)] if said else []
        assert same_however_cut(HarmonySplitter, text, rng) == merged(expected), text


def is_subsequence(part: str, of: str) -> bool:
    rest = iter(of)
    return all(character in rest for character in part)


def test_two_thousand_streams_of_wild_markers_are_the_same_under_every_cut_and_make_up_nothing() -> None:
    rng = random.Random(77)
    wild = (*ODD_TEXT, *MARKERS, *MARKERS, "analysis", "final", "assistant", "user", " to=", "to=functions.f", " " * 70)
    shown = 0
    for _ in range(2_000):
        text = drawn(rng, wild, 14)
        parts = same_however_cut(HarmonySplitter, text, rng)
        assert is_subsequence("".join(part.text for part in parts), text), text
        shown += bool(parts)
    assert shown > 1_000


def test_headers_and_gaps_around_the_limits_do_not_depend_on_the_cut() -> None:
    for length in range(LONGEST_HEADER - 40, LONGEST_HEADER + 20):
        text = f"<|channel|>analysis {'x' * length}<|message|>a<|end|>"
        parts = parts_of(text)
        assert {part.channel for part in parts} == {Channel.ANALYSIS}
        assert parts[0].text.endswith("a")
    for length in range(MOST_SPACE - 2, MOST_SPACE + 3):
        gap = " " * length
        assert parts_of(f"{gap}<|channel|>final<|message|>a")[0].text.endswith("a")
        kept = "" if length <= MOST_SPACE else f"{gap}<|start|>"
        assert parts_of(f"<|message|>a<|end|>{gap}<|start|>") == [final(f"a{kept}")]


@pytest.mark.parametrize("character", ["x", "<", " ", "<|", "\ud800"])
@pytest.mark.parametrize(
    "before",
    ["", "<|start|>", "<|channel|>", "<|channel|>final<|message|>", "<|channel|>final<|message|>a<|end|>"],
)
def test_a_megabyte_without_any_marker_is_not_kept_back(before: str, character: str) -> None:
    splitter = HarmonySplitter()
    splitter.feed(before)
    given = 0
    for at in range(0, 1_000_000, 1_000):
        given += sum(len(part.text) for part in splitter.feed(character * (1_000 // len(character))))
        assert given >= at + 1_000 - LONGEST_HEADER - MOST_SPACE - 10
    assert sum(len(part.text) for part in splitter.finish()) <= LONGEST_HEADER


def test_a_megabyte_of_messages_in_one_piece_is_read_in_one_pass() -> None:
    message = "<|start|>assistant<|channel|>final<|message|>a<|end|>"
    assert split(HarmonySplitter(), [message * 20_000]) == [final("a" * 20_000)]


def test_the_channel_is_none_where_there_is_only_structure() -> None:
    splitter = HarmonySplitter()
    seen = [splitter.channel]
    for piece in ("<|channel|>", "final", "<|message|>", "4", "<|return|>"):
        splitter.feed(piece)
        seen.append(splitter.channel)
    assert seen == [None, None, None, Channel.FINAL, Channel.FINAL, None]
