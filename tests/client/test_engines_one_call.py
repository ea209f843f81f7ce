"""Mirrors chorus_client/engines/one_call.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from chorus_client.engines.one_call import one_call
from chorus_proto.generation import Delta, Done, Piece, Prefilled, ToolCallPart

FIRST = Delta("", 3, tool_calls=(ToolCallPart(0, "a", "f", "{}"),))
SECOND = Delta("", tool_calls=(ToolCallPart(1, "b", "f", "{}"),))
DONE = Done(finish_reason="tool_calls", prompt_tokens=7, completion_tokens=9)


def told(*pieces: Piece) -> list[Piece]:
    async def engine() -> AsyncGenerator[Piece, None]:
        for piece in pieces:
            yield piece

    async def run() -> list[Piece]:
        return [piece async for piece in one_call(engine())]

    return asyncio.run(run())


def test_an_answer_ends_where_its_second_call_begins() -> None:
    *pieces, end = told(Prefilled(2, 7), Prefilled(7, 7), Delta("I look."), FIRST, SECOND, DONE)
    assert pieces == [Prefilled(2, 7), Prefilled(7, 7), Delta("I look."), FIRST]
    assert end == Done(finish_reason="tool_calls", prompt_tokens=7, completion_tokens=5)


def test_an_answer_with_one_call_or_none_is_left_as_it_is() -> None:
    assert told(FIRST, DONE) == [FIRST, DONE]
    assert told(Delta("Hi"), DONE) == [Delta("Hi"), DONE]
