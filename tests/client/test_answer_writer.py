"""Mirrors chorus_client/answer_writer.py."""

from __future__ import annotations

import random
from itertools import accumulate

import pytest

from chorus_client.answer_writer import PAYLOAD_BYTES, AnswerWriter
from chorus_client.thinking.separated import Separated
from chorus_proto.dialects.answers import Renderer, renderer
from chorus_proto.generation import Delta, Done, Generation, Message, Piece, Prefilled, ToolCallPart
from chorus_proto.ids import ModelName, RequestId
from chorus_proto.values import Dialect, ThinkingStyle, Timings

DONE = Done(finish_reason="stop", prompt_tokens=3, completion_tokens=9)
TIMINGS = Timings(ttft_s=0.1, duration_s=1.0)
ASKED = Generation(messages=(Message(role="user", content="?"),), separate_thinking=True, include_usage=True)


def rendered(dialect: Dialect = Dialect.OPENAI_CHAT, *, stream: bool = True, asked: Generation = ASKED) -> Renderer:
    return renderer(
        dialect, asked, stream=stream, request_id=RequestId("r"), model=ModelName("m"), created_unix_s=1_700_000_000
    )


def told(pieces: list[Piece], cuts: list[int], style: ThinkingStyle | None) -> bytes:
    """The whole answer, with the pieces coming together as `cuts` says."""
    answer = AnswerWriter(rendered(), None if style is None else Separated(style))
    body, tokens = b"", 0
    for start, end in zip([0, *cuts], [*cuts, len(pieces)], strict=True):
        for payload, count in answer.written(pieces[start:end]):
            body, tokens = body + payload, tokens + count
    assert tokens <= answer.tokens == sum(piece.tokens for piece in pieces if isinstance(piece, Delta))
    return body + b"".join(answer.end(DONE, TIMINGS))


def some_pieces(chance: random.Random) -> list[Piece]:
    words = ["<think>", "</think>", "<", "</th", " ", "\n", "word ", "é", ""]
    pieces: list[Piece] = [Prefilled(3, 3)]
    for _ in range(chance.randrange(1, 20)):
        match chance.randrange(8):
            case 0:
                pieces.append(Delta("", 1, tool_calls=(ToolCallPart(0, name="add"),)))
            case 1:
                pieces.append(Delta(chance.choice(words) or ".", 1, b'{"content":[{"token":"x","logprob":-1}]}'))
            case _:
                pieces.append(Delta("".join(chance.choices(words, k=chance.randrange(1, 3))), chance.randrange(3)))
    return pieces


@pytest.mark.parametrize("style", [None, ThinkingStyle.TAGS, ThinkingStyle.OPENED_TAGS, ThinkingStyle.HARMONY])
def test_what_comes_together_is_written_as_if_it_had_come_alone(style: ThinkingStyle | None) -> None:
    for seed in range(300):
        chance = random.Random(seed)
        pieces = some_pieces(chance)
        alone = told(pieces, list(range(1, len(pieces))), style)
        for _ in range(4):
            lengths = accumulate(chance.randrange(1, 5) for _ in pieces)
            assert told(pieces, [at for at in lengths if at < len(pieces)], style) == alone


def test_an_answer_that_comes_at_once_leaves_in_frames() -> None:
    answer = AnswerWriter(rendered(), None)
    pieces: list[Piece] = [Delta("x" * 100) for _ in range(2_000)]
    payloads = answer.written(pieces)
    assert len(payloads) > 3
    assert sum(tokens for _, tokens in payloads) == 2_000
    longest = len(rendered().delta(Delta("x" * 100)))
    assert max(len(payload) for payload, _ in payloads) < PAYLOAD_BYTES + longest
    assert all(payload.endswith(b"\n\n") for payload, _ in payloads), "a frame ends between events"


def test_a_whole_body_is_cut_at_its_end() -> None:
    answer = AnswerWriter(rendered(stream=False), None)
    assert answer.written([Delta("x" * 200_000)]) == []
    *parts, last = answer.end(DONE, TIMINGS)
    assert [len(part) for part in parts] == [PAYLOAD_BYTES] * 3 and last
    assert b"x" * 200_000 in b"".join((*parts, last))


def test_tokens_that_show_nothing_count_with_the_next_that_do() -> None:
    answer = AnswerWriter(rendered(), Separated(ThinkingStyle.TAGS))
    assert not answer.began
    assert answer.written([Prefilled(1, 1)]) == [] and not answer.began
    assert answer.written([Delta("<thi", 2)]) == []
    assert answer.began and answer.tokens == 2
    ((_, tokens),) = answer.written([Delta("nk>Hm")])
    assert tokens == 3
    assert answer.end(DONE, TIMINGS)[-1].endswith(b"data: [DONE]\n\n")


def test_an_answer_without_a_word_still_ends() -> None:
    answer = AnswerWriter(rendered(Dialect.TEXT), None)
    assert answer.end(DONE, TIMINGS) == [b""]
