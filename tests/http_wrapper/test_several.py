"""Mirrors chorus_http/several.py, with OpenAI's own client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from chorus_proto.cluster import Call
from chorus_proto.errors import NodeLost
from chorus_proto.generation import Delta, Done, Generation, Piece
from tests.support.fake_cluster import MODEL, FakeCluster
from tests.support.http_face import http_face, until

HI: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Pick one."}]


async def numbered(call: Call) -> AsyncGenerator[Piece, None]:
    """Says which run it is; the last one begins first."""
    asked = Generation.decoded(call.generation)
    await asyncio.sleep(0.01 * (asked.choices - asked.choice))
    yield Delta(f"{asked.prompt or ''}{asked.choice}")
    yield Delta("!")
    yield Done(finish_reason="stop", prompt_tokens=7, completion_tokens=2, cached_tokens=3)


async def second_fails(call: Call) -> AsyncGenerator[Piece, None]:
    asked = Generation.decoded(call.generation)
    yield Delta("a")
    if asked.choice == 1:
        raise NodeLost("the PC went away")
    await asyncio.Event().wait()


def with_client(cluster: FakeCluster, use: Callable[[openai.AsyncOpenAI], Awaitable[None]]) -> None:
    async def run() -> None:
        async with (
            http_face(cluster) as server,
            openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=10) as client,
        ):
            await use(client)

    asyncio.run(run())


def test_several_choices_are_one_answer_in_order_and_the_prompt_counts_once() -> None:
    cluster = FakeCluster(numbered)

    async def use(client: openai.AsyncOpenAI) -> None:
        answer = await client.chat.completions.create(model=MODEL, messages=HI, n=3)
        assert [(c.index, c.message.content) for c in answer.choices] == [(0, "0!"), (1, "1!"), (2, "2!")]
        assert answer.usage and (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (7, 6)
        assert answer.id == f"chatcmpl-{answer._request_id}"  # pyright: ignore[reportPrivateUsage]  # its public name

    with_client(cluster, use)
    assert len({call.request_id for call in cluster.calls}) == 3


def test_several_choices_are_streamed_beside_each_other_with_one_end() -> None:
    async def use(client: openai.AsyncOpenAI) -> None:
        stream = await client.chat.completions.create(
            model=MODEL, messages=HI, n=2, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        texts = ["", ""]
        for chunk in chunks:
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
        assert texts == ["0!", "1!"]
        assert sorted(c.choices[0].index for c in chunks if c.choices and c.choices[0].finish_reason) == [0, 1]
        assert len({chunk.id for chunk in chunks}) == 1
        assert chunks[-1].choices == []
        assert chunks[-1].usage and chunks[-1].usage.total_tokens == 7 + 4
        assert all(chunk.usage is None for chunk in chunks[:-1])

    with_client(FakeCluster(numbered), use)


def test_each_prompt_of_a_completion_has_its_choices_and_counts() -> None:
    async def use(client: openai.AsyncOpenAI) -> None:
        answer = await client.completions.create(model=MODEL, prompt=["a", "b"], n=2)
        assert [choice.text for choice in answer.choices] == ["a0!", "a1!", "b2!", "b3!"]
        assert answer.usage and answer.usage.prompt_tokens == 14

    with_client(FakeCluster(numbered), use)


@pytest.mark.parametrize("stream", [False, True])
def test_the_first_run_that_fails_ends_the_others(stream: bool) -> None:
    cluster = FakeCluster(second_fails)

    async def use(client: openai.AsyncOpenAI) -> None:
        with pytest.raises(openai.APIError, match="the PC went away"):
            answer = await client.chat.completions.create(model=MODEL, messages=HI, n=3, stream=stream)
            if isinstance(answer, openai.AsyncStream):
                async for _ in answer:
                    pass
        await until(lambda: len(cluster.ended) == 3)

    with_client(cluster, use)
