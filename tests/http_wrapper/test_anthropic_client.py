"""Anthropic's own Python client against the real server: what it parses is what the dialect must be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

import anthropic
import pytest
from anthropic.types import MessageParam, ToolParam

from chorus_proto.cluster import Call
from chorus_proto.errors import ClusterError, ContextLengthExceeded, ModelNotFound, NodeLost, QueueFull
from chorus_proto.generation import Channel, Delta, Done, Effort, Generation, Piece, ToolCallPart
from tests.support.fake_cluster import MODEL, Engine, FakeCluster, failing
from tests.support.http_face import http_face

HI: list[MessageParam] = [{"role": "user", "content": "What is the capital of France?"}]
WEATHER: ToolParam = {
    "name": "weather",
    "description": "Tells it.",
    "input_schema": {"type": "object", "properties": {"town": {"type": "string"}}},
}


def with_client(cluster: FakeCluster, use: Callable[[anthropic.AsyncAnthropic], Awaitable[None]]) -> None:
    async def run() -> None:
        async with (
            http_face(cluster) as server,
            anthropic.AsyncAnthropic(base_url=server.url, api_key="none", max_retries=0, timeout=10) as client,
        ):
            await use(client)

    asyncio.run(run())


def saying(*pieces: Piece) -> Engine:
    async def engine(_call: Call) -> AsyncGenerator[Piece, None]:
        for piece in pieces:
            yield piece

    return engine


THINKS_AND_CALLS = saying(
    Delta("Where? ", channel=Channel.ANALYSIS),
    Delta("There.", channel=Channel.ANALYSIS),
    Delta("I look."),
    Delta("", tool_calls=(ToolCallPart(0, "call_1", "weather", '{"town":'),)),
    Delta("", tool_calls=(ToolCallPart(0, arguments=' "Paris"}'),)),
    Done(finish_reason="tool_calls", prompt_tokens=9, completion_tokens=12, cached_tokens=4),
)


def asked(cluster: FakeCluster) -> Generation:
    return Generation.decoded(cluster.calls[-1].generation)


def test_a_stop_sequence_that_ended_the_answer_is_named() -> None:
    cluster = FakeCluster(saying(Delta("One, "), Done(finish_reason="stop", stop_sequence="two")))

    async def use(client: anthropic.AsyncAnthropic) -> None:
        whole = await client.messages.create(model=MODEL, messages=HI, max_tokens=9, stop_sequences=["two"])
        assert (whole.stop_reason, whole.stop_sequence) == ("stop_sequence", "two")
        async with client.messages.stream(model=MODEL, messages=HI, max_tokens=9, stop_sequences=["two"]) as stream:
            streamed = await stream.get_final_message()
        assert (streamed.stop_reason, streamed.stop_sequence) == ("stop_sequence", "two")

    with_client(cluster, use)


def test_an_answer_has_text_reason_and_usage() -> None:
    cluster = FakeCluster()

    async def use(client: anthropic.AsyncAnthropic) -> None:
        answer = await client.messages.create(
            model=MODEL,
            max_tokens=9,
            messages=HI,
            system="Be short.",
            stop_sequences=["\n"],
            metadata={"user_id": "anna"},
            extra_body={"temperature": 0.5, "top_k": 3},
        )
        (block,) = answer.content
        assert block.type == "text"
        assert block.text == "The capital is Paris."
        assert (answer.role, answer.stop_reason, answer.model) == ("assistant", "end_turn", MODEL)
        usage = answer.usage
        assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (4, 3, 2)
        assert answer.id == f"msg_{answer._request_id}"  # pyright: ignore[reportPrivateUsage]  # its public name

    with_client(cluster, use)
    found = asked(cluster)
    assert [turn.role for turn in found.messages or ()] == ["system", "user"]
    assert (found.max_tokens, found.temperature, found.top_k, found.stop) == (9, 0.5, 3, ("\n",))
    assert cluster.calls[-1].affinity == "anna"


def test_a_stream_has_the_apis_order_of_events_and_adds_up_to_the_message() -> None:
    async def use(client: anthropic.AsyncAnthropic) -> None:
        async with client.messages.stream(model=MODEL, max_tokens=99, messages=HI, tools=[WEATHER]) as stream:
            raw = [event async for event in stream]
            message = await stream.get_final_message()
        kinds = [event.type for event in raw if event.type.startswith(("message", "content"))]
        block = ["content_block_start", "content_block_delta", "content_block_stop"]
        assert kinds == [
            "message_start",
            *(block[0], block[1], block[1], block[2]),
            *block,
            *(block[0], block[1], block[1], block[2]),
            "message_delta",
            "message_stop",
        ]
        thinking, text, call = message.content
        assert thinking.type == "thinking"
        assert thinking.thinking == "Where? There."
        assert text.type == "text"
        assert text.text == "I look."
        assert call.type == "tool_use"
        assert (call.id, call.name, call.input) == ("call_1", "weather", {"town": "Paris"})
        assert (message.stop_reason, message.usage.input_tokens, message.usage.output_tokens) == ("tool_use", 5, 12)

    with_client(FakeCluster(THINKS_AND_CALLS), use)


@pytest.mark.parametrize("stream", [False, True])
def test_thoughts_are_blocks_of_their_own_and_can_be_switched_off(stream: bool) -> None:
    cluster = FakeCluster(THINKS_AND_CALLS)

    async def kinds(client: anthropic.AsyncAnthropic, **more: object) -> list[str]:
        if not stream:
            answer = await client.messages.create(model=MODEL, max_tokens=99, messages=HI, extra_body=more)
            return [block.type for block in answer.content]
        async with client.messages.stream(model=MODEL, max_tokens=99, messages=HI, extra_body=more) as told:
            return [block.type for block in (await told.get_final_message()).content]

    async def use(client: anthropic.AsyncAnthropic) -> None:
        assert await kinds(client) == ["thinking", "text", "tool_use"]
        assert asked(cluster).reasoning_effort is None
        budget = {"type": "enabled", "budget_tokens": 20_000}
        assert await kinds(client, thinking=budget) == ["thinking", "text", "tool_use"]
        assert asked(cluster).reasoning_effort is Effort.HIGH
        assert await kinds(client, thinking={"type": "disabled"}) == ["text", "tool_use"]
        assert asked(cluster).reasoning_effort is Effort.NONE
        hidden = {"type": "adaptive", "display": "omitted"}
        assert await kinds(client, thinking=hidden, output_config={"effort": "low"}) == ["text", "tool_use"]
        assert asked(cluster).reasoning_effort is Effort.LOW

    with_client(cluster, use)


def test_a_conversation_with_tools_reaches_the_engine_in_its_own_shape() -> None:
    cluster = FakeCluster()
    turns: list[MessageParam] = [
        {"role": "user", "content": [{"type": "text", "text": "Weather?", "cache_control": {"type": "ephemeral"}}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": ""},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "a", "name": "weather", "input": {"town": "Paris"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "a",
                    "content": [{"type": "text", "text": "no line"}],
                    "is_error": True,
                },
                {"type": "text", "text": "Again."},
            ],
        },
    ]

    async def use(client: anthropic.AsyncAnthropic) -> None:
        await client.messages.create(
            model=MODEL,
            max_tokens=5,
            messages=turns,
            tools=[WEATHER],
            tool_choice={"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
        )

    with_client(cluster, use)
    found = asked(cluster)
    shown = [(turn.role, turn.content, turn.tool_call_id) for turn in found.messages or ()]
    assert shown == [
        ("user", "Weather?", None),
        ("assistant", "I look.", None),
        ("tool", "Error: no line", "a"),
        ("user", "Again.", None),
    ]
    calls = [call.function.arguments for turn in found.messages or () for call in turn.tool_calls]
    assert calls == ['{"town":"Paris"}']
    assert found.tools is not None
    assert '"parameters":{"type":"object"' in found.tools
    assert (found.tool_choice, found.parallel_tool_calls) == ('"required"', False)


def test_tokens_are_counted_by_the_node_that_has_the_model() -> None:
    cluster = FakeCluster()

    async def use(client: anthropic.AsyncAnthropic) -> None:
        counted = await client.messages.count_tokens(model=MODEL, messages=HI, system="Be short.", tools=[WEATHER])
        assert counted.input_tokens == 7

    with_client(cluster, use)
    found = asked(cluster)
    assert (found.max_tokens, len(found.messages or ())) == (1, 2)
    assert found.tools


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "raised", "kind"),
    [
        (ModelNotFound("no such model", param="model"), anthropic.NotFoundError, "not_found_error"),
        (ContextLengthExceeded("5 over 4", param="messages"), anthropic.BadRequestError, "invalid_request_error"),
        (QueueFull("full", retry_after_s=7.2), anthropic.InternalServerError, "overloaded_error"),
    ],
    ids=repr,
)
def test_a_failure_before_the_first_token_has_its_status_and_kind(
    error: ClusterError, raised: type[anthropic.APIStatusError], kind: str, stream: bool
) -> None:
    async def use(client: anthropic.AsyncAnthropic) -> None:
        with pytest.raises(raised) as caught:
            await client.messages.create(model=MODEL, max_tokens=5, messages=HI, stream=stream)
        told = caught.value.response.json()
        assert told["error"] == {"type": kind, "message": error.message}
        assert caught.value.request_id == told["request_id"]

    with_client(FakeCluster(failing(error)), use)


def test_a_failure_after_the_first_token_is_an_event_that_the_client_raises() -> None:
    async def use(client: anthropic.AsyncAnthropic) -> None:
        with pytest.raises(anthropic.APIError, match="the PC went away"):
            async for _ in await client.messages.create(model=MODEL, max_tokens=5, messages=HI, stream=True):
                pass

    with_client(FakeCluster(failing(NodeLost("the PC went away"), after=(Delta("The "),))), use)


BAD: list[tuple[dict[str, object], str]] = [
    ({"temperature": 1.5}, "temperature"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "robot", "content": "a"}]}, "messages[0].role"),
    ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "messages[0].content[0]"),
    ({"messages": [{"role": "user", "content": [{"type": "tool_use"}]}]}, "messages[0].content[0]"),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
    ({"tools": [{"name": "a b", "input_schema": {}}]}, "tools[0].name"),
    ({"tools": [{"name": "a", "input_schema": {"$ref": "http://x"}}]}, "tools[0].input_schema"),
    ({"tool_choice": {"type": "any"}}, "tool_choice"),
    ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
    ({"thinking": {"type": "enabled", "budget_tokens": 5}}, "thinking.budget_tokens"),
    ({"output_config": {"effort": "huge"}}, "output_config.effort"),
    ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type"),
    ({"mcp_servers": [{"url": "x"}]}, "mcp_servers"),
    ({"stop_sequences": [""]}, "stop_sequences"),
    ({"max_token": 5}, "max_token"),
]


@pytest.mark.parametrize(("more", "param"), BAD, ids=repr)
def test_a_bad_field_is_named_in_the_message(more: dict[str, object], param: str) -> None:
    cluster = FakeCluster()

    async def use(client: anthropic.AsyncAnthropic) -> None:
        with pytest.raises(anthropic.BadRequestError) as caught:
            await client.messages.create(model=MODEL, max_tokens=5, messages=HI, extra_body=more)
        assert caught.value.response.json()["error"]["message"].startswith(f"{param}: ")

    with_client(cluster, use)
    assert cluster.calls == []
