"""Mirrors chorus_client/engines/one_call.py."""

from __future__ import annotations

import asyncio

import pytest

from chorus_client.engines.one_call import one_call
from chorus_proto.generation import Delta, Done, Piece, PieceBatches, Prefilled, ToolCallPart
from tests.support.pieces import each

FIRST = Delta("", 3, tool_calls=(ToolCallPart(0, "a", "f", "{}"),))
SECOND = Delta("", tool_calls=(ToolCallPart(1, "b", "f", "{}"),))
DONE = Done(finish_reason="tool_calls", prompt_tokens=7, completion_tokens=9)


def told(*pieces: Piece, together: int) -> list[Piece]:
    async def engine() -> PieceBatches:
        for at in range(0, len(pieces), together):
            yield list(pieces[at : at + together])

    async def run() -> list[Piece]:
        return [piece async for piece in each(one_call(engine()))]

    return asyncio.run(run())


@pytest.mark.parametrize("together", [1, 2, 3, 6])
def test_an_answer_ends_where_its_second_call_begins(together: int) -> None:
    asked = (Prefilled(2, 7), Prefilled(7, 7), Delta("I look."), FIRST, SECOND, DONE)
    *pieces, end = told(*asked, together=together)
    assert pieces == [Prefilled(2, 7), Prefilled(7, 7), Delta("I look."), FIRST]
    assert end == Done(finish_reason="tool_calls", prompt_tokens=7, completion_tokens=5)


@pytest.mark.parametrize("together", [1, 2])
def test_an_answer_with_one_call_or_none_is_left_as_it_is(together: int) -> None:
    assert told(FIRST, DONE, together=together) == [FIRST, DONE]
    assert told(Delta("Hi"), DONE, together=together) == [Delta("Hi"), DONE]
