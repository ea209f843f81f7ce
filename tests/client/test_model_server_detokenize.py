"""Text out of tokens: cut characters, and stop strings at every possible cut."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chorus_client.model_server.detokenize import AnswerText


class Bytes:
    """A `TokenDecoder` whose tokens are bytes."""

    def __init__(self) -> None:
        self._held = b""

    def step(self, token: int) -> str | None:
        self._held += bytes([token])
        try:
            text = self._held.decode()
        except UnicodeDecodeError:
            return None
        self._held = b""
        return text

    def rest(self, tokens: Sequence[int]) -> str:
        return bytes(tokens).decode("utf-8", "replace")


class Pieces:
    """A `TokenDecoder` whose token n is the nth piece."""

    def __init__(self, pieces: Sequence[str]) -> None:
        self._pieces = pieces

    def step(self, token: int) -> str | None:
        return self._pieces[token]

    def rest(self, tokens: Sequence[int]) -> str:
        return ""


def shown(pieces: Sequence[str], stops: Sequence[str]) -> tuple[str, bool]:
    text = AnswerText(Pieces(pieces), stops)
    found: list[str] = []
    for token in range(len(pieces)):
        found.append(text.feed(token))
        if text.stopped:
            break
    return "".join(found) + text.end(), text.stopped


def test_a_character_cut_between_tokens_comes_whole() -> None:
    text = AnswerText(Bytes(), ())
    assert [text.feed(byte) for byte in "aé日".encode()] == ["a", "", "é", "", "", "日"]
    assert text.end() == ""


def test_half_a_character_at_the_end_is_a_replacement_character() -> None:
    text = AnswerText(Bytes(), ("never",))
    for byte in "ok日".encode()[:-1]:
        text.feed(byte)
    assert text.end() == "\ufffd"


@given(st.text("ab<", max_size=12), st.lists(st.text("ab<", min_size=1, max_size=4), min_size=1, max_size=3), st.data())
def test_a_stop_string_ends_the_text_at_every_cut(text: str, stops: list[str], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    # A stop counts when it is complete: the one that ends first wins, and of several the one that began first.
    ends = [end for end in range(len(text) + 1) if any(text[:end].endswith(stop) for stop in stops)]
    found, stopped = shown(list(text), stops)
    assert stopped == bool(ends)
    if ends:
        assert found == text[: min(at for stop in stops if (at := text[: ends[0]].find(stop)) >= 0)]
    else:
        assert found == text
    assert shown(pieces, stops)[1] == stopped
    assert not any(stop in shown(pieces, stops)[0] for stop in stops)


def test_what_may_begin_a_stop_string_is_held_back_and_shown_when_it_does_not() -> None:
    text = AnswerText(Pieces(["one <", "end", "x", "<e"]), ("<end>",))
    assert [text.feed(token) for token in range(4)] == ["one ", "", "<endx", ""]
    assert text.end() == "<e"


@pytest.mark.parametrize("stops", [(), ("q",)])
def test_nothing_is_held_without_need(stops: tuple[str, ...]) -> None:
    text = AnswerText(Pieces(["word", " more"]), stops)
    assert [text.feed(0), text.feed(1)] == ["word", " more"]
