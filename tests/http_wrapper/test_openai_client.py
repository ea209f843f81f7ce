"""OpenAI's own Python client against the real server: what it parses is what the dialect must be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace

import openai
import pytest
from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam

from chorus_proto.cluster import Call
from chorus_proto.errors import (
    ClusterError,
    ContextLengthExceeded,
    DeadlineExceeded,
    ModelNotFound,
    NodeLost,
    QueueFull,
)
from chorus_proto.generation import Channel, Delta, Done, Generation, Piece, ThoughtField
from chorus_proto.keys import Scope
from tests.support.fake_cluster import MODEL, FakeCluster, failing
from tests.support.http_face import http_face

HI: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is the capital of France?"}]


def with_client(cluster: FakeCluster, use: Callable[[openai.AsyncOpenAI], Awaitable[None]]) -> None:
    async def run() -> None:
        async with (
            http_face(cluster) as server,
            openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=10) as client,
        ):
            await use(client)

    asyncio.run(run())


def test_a_chat_answer_has_text_reason_and_usage() -> None:
    async def use(client: openai.AsyncOpenAI) -> None:
        answer = await client.chat.completions.create(model=MODEL, messages=HI, seed=1, stop=["\n"], max_tokens=9)
        assert answer.choices[0].message.content == "The capital is Paris."
        assert answer.choices[0].message.role == "assistant"
        assert answer.choices[0].finish_reason == "stop"
        assert answer.usage and answer.usage.prompt_tokens_details
        assert (answer.usage.total_tokens, answer.usage.prompt_tokens_details.cached_tokens) == (9, 3)
        assert answer.id == f"chatcmpl-{answer._request_id}"  # pyright: ignore[reportPrivateUsage]  # its public name

    with_client(FakeCluster(), use)


def test_a_chat_stream_has_usage_only_when_asked() -> None:
    async def use(client: openai.AsyncOpenAI) -> None:
        plain = [c async for c in await client.chat.completions.create(model=MODEL, messages=HI, stream=True)]
        assert "".join(c.choices[0].delta.content or "" for c in plain) == "The capital is Paris."
        assert plain[0].choices[0].delta.role == "assistant"
        assert plain[-1].choices[0].finish_reason == "stop"
        assert all(c.usage is None for c in plain)
        counted = [
            c
            async for c in await client.chat.completions.create(
                model=MODEL, messages=HI, stream=True, stream_options={"include_usage": True}
            )
        ]
        assert counted[-1].choices == []
        assert counted[-1].usage and counted[-1].usage.completion_tokens == 2
        assert len(counted) == len(plain) + 1

    with_client(FakeCluster(), use)


def test_completions_and_models_are_served() -> None:
    async def use(client: openai.AsyncOpenAI) -> None:
        whole = await client.completions.create(model=MODEL, prompt="France:")
        assert whole.choices[0].text == "The capital is Paris."
        parts = [c async for c in await client.completions.create(model=MODEL, prompt="France:", stream=True)]
        assert "".join(c.choices[0].text for c in parts) == "The capital is Paris."
        assert [model.id async for model in client.models.list()] == [MODEL]
        assert (await client.models.retrieve("org/large:8b")).id == "org/large:8b"
        with pytest.raises(openai.NotFoundError, match=r"Closest: .*tiny:1b"):
            await client.models.retrieve("tinny:1b")

    with_client(FakeCluster(), use)


def test_the_request_reaches_the_cluster_checked_and_whole() -> None:
    cluster = FakeCluster()

    async def use(client: openai.AsyncOpenAI) -> None:
        await client.chat.completions.create(
            model=MODEL,
            messages=HI,
            max_completion_tokens=5,
            user="anna",
            extra_body={"x_chorus": {"node": "attic-pc", "queue_within_s": 0.5, "within_s": 3}},
        )

    with_client(cluster, use)
    (call,) = cluster.calls
    assert (call.max_tokens, call.affinity, call.node) == (5, "anna", "attic-pc")
    assert (call.queue_within_s, call.within_s, call.prompt_tokens_estimate) == (0.5, 3, 10)
    assert Generation.decoded(call.generation).max_tokens == 5


def test_a_bad_parameter_is_a_bad_request_error_with_its_param() -> None:
    cluster = FakeCluster()

    async def use(client: openai.AsyncOpenAI) -> None:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(model=MODEL, messages=HI, temperature=9)
        assert (caught.value.param, caught.value.code) == ("temperature", "invalid_request")
        assert caught.value.type == "invalid_request_error"
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(model=MODEL, messages=[])
        assert caught.value.param == "messages"

    with_client(cluster, use)
    assert cluster.calls == []


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "raised", "status"),
    [
        (ModelNotFound("no such model", param="model"), openai.NotFoundError, 404),
        (ContextLengthExceeded("5 over 4", param="messages"), openai.BadRequestError, 400),
        (QueueFull("full", retry_after_s=7.2), openai.InternalServerError, 503),
        (NodeLost("gone"), openai.InternalServerError, 502),
        (DeadlineExceeded("late"), openai.InternalServerError, 504),
        (RuntimeError("a bug with a secret path"), openai.InternalServerError, 500),
    ],
    ids=repr,
)
def test_a_failure_before_the_first_token_has_its_own_status(
    error: Exception, raised: type[openai.APIStatusError], status: int, stream: bool
) -> None:
    async def use(client: openai.AsyncOpenAI) -> None:
        with pytest.raises(raised) as caught:
            await client.chat.completions.create(model=MODEL, messages=HI, stream=stream)
        assert caught.value.status_code == status
        headers = caught.value.response.headers
        assert headers["x-should-retry"] == ("true" if isinstance(error, QueueFull | NodeLost) else "false")
        assert ("retry-after" in headers) is (status == 503)
        if isinstance(error, ClusterError):
            assert (caught.value.code, caught.value.param) == (error.code, error.param)
        else:
            assert "secret" not in caught.value.message
            assert headers["x-request-id"] in caught.value.message

    with_client(FakeCluster(failing(error)), use)


def test_a_failure_after_the_first_token_ends_the_stream_with_an_error_the_client_raises() -> None:
    seen: list[ChatCompletionChunk] = []

    async def use(client: openai.AsyncOpenAI) -> None:
        with pytest.raises(openai.APIError, match="the PC went away"):
            async for chunk in await client.chat.completions.create(model=MODEL, messages=HI, stream=True):
                seen.append(chunk)

    with_client(FakeCluster(failing(NodeLost("the PC went away"), after=(Delta("The "),))), use)
    assert [chunk.choices[0].delta.content for chunk in seen] == ["The "]


@pytest.mark.parametrize(
    ("field", "shown"),
    [
        (None, {"reasoning_content", "reasoning"}),
        (ThoughtField.BOTH, {"reasoning_content", "reasoning"}),
        (ThoughtField.REASONING, {"reasoning"}),
        (ThoughtField.REASONING_CONTENT, {"reasoning_content"}),
        (ThoughtField.NONE, set[str]()),
    ],
)
def test_a_key_says_where_its_client_reads_thoughts(field: ThoughtField | None, shown: set[str]) -> None:
    """Trap 6."""

    async def thinker(_call: Call) -> AsyncGenerator[Piece, None]:
        yield Delta("France, so Paris.", channel=Channel.ANALYSIS)
        yield Delta("Paris")
        yield Done(finish_reason="stop", completion_tokens=3)

    cluster = FakeCluster(thinker)
    text = cluster.add_key("ann", Scope.INFER)
    ((claim, key),) = cluster.keys.items()
    cluster.keys[claim] = replace(key, thought_field=field)

    async def run() -> None:
        async with (
            http_face(cluster) as server,
            openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=text, max_retries=0, timeout=10) as client,
        ):
            whole = await client.chat.completions.create(model=MODEL, messages=HI)
            message = whole.choices[0].message
            assert (message.content, set(message.model_extra or ())) == ("Paris", shown)
            told: dict[str, str] = {}
            async for chunk in await client.chat.completions.create(model=MODEL, messages=HI, stream=True):
                for name, value in (chunk.choices[0].delta.model_extra or {}).items():
                    told[name] = told.get(name, "") + value
            assert told == dict.fromkeys(shown, "France, so Paris.")

    asyncio.run(run())
