"""Thoughts apart from the answer, all the way: OpenAI's client, the wrapper, a coordinator and a real agent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import cast

import openai
from openai.types.chat import ChatCompletionMessageParam

from tests.support.http_face import http_face
from tests.support.small_cluster import small_cluster

SAID: list[ChatCompletionMessageParam] = [{"role": "user", "content": "<think> a b </think> c"}]
"""The engine says the last message's words back."""


def play(tmp_path: Path, use: Callable[[openai.AsyncOpenAI], Awaitable[None]], model: str) -> None:
    async def run() -> None:
        async with asyncio.timeout(30), small_cluster(tmp_path) as cluster:
            await cluster.join("attic", models=(model,))
            await cluster.until_ready("attic")
            async with (
                http_face(cluster.coordinator) as server,
                openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=10) as client,
            ):
                await use(client)

    asyncio.run(run())


def extra(thing: object, name: str) -> object:
    """A field that the client's own types do not have."""
    return cast("dict[str, object]", getattr(thing, "model_extra")).get(name)  # noqa: B009 - pydantic's name


def test_a_whole_answer_has_its_thought_beside_it(tmp_path: Path) -> None:
    async def use(client: openai.AsyncOpenAI) -> None:
        answer = await client.chat.completions.create(model="qwen3", messages=SAID)
        message = answer.choices[0].message
        assert message.content == "c"
        assert extra(message, "reasoning_content") == extra(message, "reasoning") == "ab"
        assert extra(message, "channels") is None
        assert answer.usage and answer.usage.completion_tokens_details
        assert answer.usage.completion_tokens_details.reasoning_tokens == 2

    play(tmp_path, use, "qwen3")


def test_a_streamed_thought_comes_before_the_answer_in_fields_of_its_own(tmp_path: Path) -> None:
    async def use(client: openai.AsyncOpenAI) -> None:
        chunks = [c async for c in await client.chat.completions.create(model="qwen3", messages=SAID, stream=True)]
        deltas = [chunk.choices[0].delta for chunk in chunks]
        assert [extra(delta, "reasoning_content") for delta in deltas] == ["a", "b", None, None]
        assert [delta.content for delta in deltas] == [None, None, "c", None]
        assert deltas[0].role == "assistant"

    play(tmp_path, use, "qwen3")


def test_the_text_stays_as_it_is_when_it_shall(tmp_path: Path) -> None:
    async def use(client: openai.AsyncOpenAI) -> None:
        raw = await client.chat.completions.create(
            model="qwen3", messages=SAID, extra_body={"separate_thinking": False}
        )
        assert raw.choices[0].message.content == "<think>ab</think>c"
        assert extra(raw.choices[0].message, "reasoning_content") is None

    play(tmp_path, use, "qwen3")


def test_channels_come_under_a_key_of_their_own_when_asked_for(tmp_path: Path) -> None:
    said = "<|channel|>analysis<|message|> a <|end|><|start|>assistant<|channel|>final<|message|> c"
    asked: list[ChatCompletionMessageParam] = [{"role": "user", "content": said}]

    async def use(client: openai.AsyncOpenAI) -> None:
        answer = await client.chat.completions.create(
            model="gpt-oss",
            messages=asked,
            extra_body={"include_channels": ["analysis", "final"], "reasoning": "high"},
        )
        message = answer.choices[0].message
        assert (message.content, extra(message, "channels")) == ("c", {"analysis": "a", "final": "c"})
        assert extra(answer, "reasoning_level") == "high"
        assert extra(answer.usage, "thinking_tokens") == 1

    play(tmp_path, use, "gpt-oss")


def test_a_model_that_does_not_think_is_left_alone(tmp_path: Path) -> None:
    async def use(client: openai.AsyncOpenAI) -> None:
        answer = await client.chat.completions.create(model="echo", messages=SAID)
        assert answer.choices[0].message.content == "<think>ab</think>c"

    play(tmp_path, use, "echo")
