"""OpenAI's own Python client on the Responses API of the real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

import openai
import pytest
from openai.types.responses import ResponseInputParam, ToolParam

from chorus_proto.cluster import Call
from chorus_proto.errors import NodeLost
from chorus_proto.generation import Channel, ChannelTokens, Delta, Done, Effort, Generation, Piece, ToolCallPart
from chorus_proto.values import Priority
from tests.support.fake_cluster import MODEL, Engine, FakeCluster, failing, waiting
from tests.support.http_face import http_face, until

WEATHER: ToolParam = {
    "type": "function",
    "name": "weather",
    "description": "Tells it.",
    "parameters": {"type": "object", "properties": {"town": {"type": "string"}}},
    "strict": True,
}


def with_client(cluster: FakeCluster, use: Callable[[openai.AsyncOpenAI], Awaitable[None]]) -> None:
    async def run() -> None:
        async with (
            http_face(cluster) as server,
            openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=10) as client,
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
    Done(
        finish_reason="tool_calls",
        prompt_tokens=9,
        completion_tokens=12,
        cached_tokens=4,
        channel_tokens=ChannelTokens(analysis=4, final=2),
    ),
)


def asked(cluster: FakeCluster) -> Generation:
    return Generation.decoded(cluster.calls[-1].generation)


def turns(cluster: FakeCluster) -> list[tuple[str, str]]:
    return [(turn.role, turn.content) for turn in asked(cluster).messages or ()]


def test_a_response_has_output_text_status_and_usage_and_repeats_what_was_asked() -> None:
    cluster = FakeCluster()

    async def use(client: openai.AsyncOpenAI) -> None:
        response = await client.responses.create(
            model=MODEL,
            input="What is the capital of France?",
            instructions="Be short.",
            max_output_tokens=9,
            temperature=0.5,
            metadata={"a": "b"},
            reasoning={"effort": "low"},
        )
        assert response.output_text == "The capital is Paris."
        assert (response.status, response.object, response.model) == ("completed", "response", MODEL)
        assert response.usage is not None
        assert (response.usage.input_tokens, response.usage.output_tokens) == (7, 2)
        assert response.usage.input_tokens_details.cached_tokens == 3
        assert (response.instructions, response.metadata, response.temperature) == ("Be short.", {"a": "b"}, 0.5)
        assert response.id == f"resp_{response._request_id}"  # pyright: ignore[reportPrivateUsage]  # its public name

    with_client(cluster, use)
    assert turns(cluster) == [("system", "Be short."), ("user", "What is the capital of France?")]
    found = asked(cluster)
    assert (found.max_tokens, found.reasoning_effort) == (9, Effort.LOW)


def test_a_stream_tells_each_item_in_the_apis_events_and_ends_with_the_whole_response() -> None:
    async def use(client: openai.AsyncOpenAI) -> None:
        stream = await client.responses.create(model=MODEL, input="Weather?", tools=[WEATHER], stream=True)
        events = [event async for event in stream]
        assert [event.type.removeprefix("response.") for event in events] == [
            "created",
            "in_progress",
            *("output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.delta"),
            *("reasoning_text.done", "content_part.done", "output_item.done"),
            *("output_item.added", "content_part.added", "output_text.delta"),
            *("output_text.done", "content_part.done", "output_item.done"),
            *("output_item.added", "function_call_arguments.delta", "function_call_arguments.delta"),
            *("function_call_arguments.done", "output_item.done"),
            "completed",
        ]
        assert [event.sequence_number for event in events] == list(range(len(events)))
        last = events[-1]
        assert last.type == "response.completed"
        thought, said, call = last.response.output
        assert thought.type == "reasoning"
        assert [part.text for part in thought.content or []] == ["Where? There."]
        assert said.type == "message"
        assert last.response.output_text == "I look."
        assert call.type == "function_call"
        assert (call.call_id, call.name, call.arguments) == ("call_1", "weather", '{"town": "Paris"}')
        assert last.response.usage is not None
        assert last.response.usage.output_tokens_details.reasoning_tokens == 4

    with_client(FakeCluster(THINKS_AND_CALLS), use)


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_cut_off_by_the_limit_is_incomplete(stream: bool) -> None:
    engine = saying(Delta("The"), Done(finish_reason="length", prompt_tokens=1, completion_tokens=1))

    async def use(client: openai.AsyncOpenAI) -> None:
        if stream:
            events = [event async for event in await client.responses.create(model=MODEL, input="Hi", stream=True)]
            last = events[-1]
            assert last.type == "response.incomplete"
            response = last.response
        else:
            response = await client.responses.create(model=MODEL, input="Hi")
        assert response.status == "incomplete"
        assert response.incomplete_details is not None
        assert response.incomplete_details.reason == "max_output_tokens"

    with_client(FakeCluster(engine), use)


@pytest.mark.parametrize("stream", [False, True])
def test_a_later_request_goes_on_from_a_kept_response(stream: bool) -> None:
    cluster = FakeCluster(THINKS_AND_CALLS)

    async def use(client: openai.AsyncOpenAI) -> None:
        if stream:
            events = [
                event
                async for event in await client.responses.create(
                    model=MODEL, input="Weather?", instructions="Be short.", tools=[WEATHER], stream=True
                )
            ]
            assert events[-1].type == "response.completed"
            first = events[-1].response
        else:
            first = await client.responses.create(
                model=MODEL, input="Weather?", instructions="Be short.", tools=[WEATHER]
            )
        again = await client.responses.retrieve(first.id)
        assert again.output == first.output
        result: ResponseInputParam = [{"type": "function_call_output", "call_id": "call_1", "output": "Rain."}]
        second = await client.responses.create(
            model=MODEL, input=result, previous_response_id=first.id, instructions="In French."
        )
        assert second.previous_response_id == first.id
        assert turns(cluster) == [
            ("system", "In French."),
            ("user", "Weather?"),
            ("assistant", "I look."),
            ("tool", "Rain."),
        ]
        calls = [call.id for turn in asked(cluster).messages or () for call in turn.tool_calls]
        assert calls == ["call_1"]

        await client.responses.delete(first.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(first.id)
        with pytest.raises(openai.NotFoundError) as caught:
            await client.responses.create(model=MODEL, input="And now?", previous_response_id=first.id)
        assert caught.value.param == "previous_response_id"

    with_client(cluster, use)


def test_what_shall_not_be_stored_is_not_kept() -> None:
    async def use(client: openai.AsyncOpenAI) -> None:
        response = await client.responses.create(model=MODEL, input="Hi", store=False)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(response.id)

    with_client(FakeCluster(), use)


def test_a_response_in_the_background_can_be_fetched_followed_and_is_nobodys_hurry() -> None:
    gate = asyncio.Event()
    cluster = FakeCluster(waiting(gate, before=(Delta("So: "),)))

    async def use(client: openai.AsyncOpenAI) -> None:
        begun = await client.responses.create(model=MODEL, input="Hi", background=True)
        assert (begun.status, begun.background) == ("in_progress", True)
        await until(lambda: len(cluster.calls) == 1)
        assert cluster.calls[0].priority is Priority.BATCH
        with pytest.raises(openai.BadRequestError, match="in_progress"):
            await client.responses.create(model=MODEL, input="And?", previous_response_id=begun.id)
        following = await client.responses.retrieve(begun.id, stream=True)
        first = await anext(following)
        gate.set()
        events = [first, *[event async for event in following]]
        assert events[-1].type == "response.completed"
        assert [event.sequence_number for event in events] == list(range(len(events)))
        over = await client.responses.retrieve(begun.id)
        assert (over.status, over.output_text) == ("completed", "So: The capital is Paris.")
        rest = [event async for event in await client.responses.retrieve(begun.id, stream=True, starting_after=4)]
        assert [event.sequence_number for event in rest] == [event.sequence_number for event in events[5:]]

    with_client(cluster, use)


def test_a_background_response_can_be_cancelled_and_others_cannot() -> None:
    cluster = FakeCluster(waiting(asyncio.Event()))

    async def use(client: openai.AsyncOpenAI) -> None:
        begun = await client.responses.create(model=MODEL, input="Hi", background=True)
        await until(lambda: len(cluster.calls) == 1)
        assert (await client.responses.cancel(begun.id)).status == "cancelled"
        await until(lambda: len(cluster.ended) == 1)
        assert (await client.responses.retrieve(begun.id)).status == "cancelled"
        assert (await client.responses.cancel(begun.id)).status == "cancelled"
        cluster.engine = saying(Delta("a"), Done(finish_reason="stop"))
        plain = await client.responses.create(model=MODEL, input="Hi")
        with pytest.raises(openai.BadRequestError, match="background"):
            await client.responses.cancel(plain.id)

    with_client(cluster, use)


def test_a_failure_in_the_background_is_told_to_whoever_asks() -> None:
    async def use(client: openai.AsyncOpenAI) -> None:
        begun = await client.responses.create(model=MODEL, input="Hi", background=True, stream=True)
        events = [event async for event in begun]
        last = events[-1]
        assert last.type == "response.failed"
        assert last.response.error is not None
        assert last.response.error.message == "the PC went away"
        assert (await client.responses.retrieve(last.response.id)).status == "failed"

    with_client(FakeCluster(failing(NodeLost("the PC went away"), after=(Delta("The "),))), use)


def test_a_failure_after_the_first_token_is_an_event_that_the_client_raises() -> None:
    async def use(client: openai.AsyncOpenAI) -> None:
        with pytest.raises(openai.APIError, match="the PC went away"):
            async for _ in await client.responses.create(model=MODEL, input="Hi", stream=True):
                pass

    with_client(FakeCluster(failing(NodeLost("the PC went away"), after=(Delta("The "),))), use)


BAD: list[tuple[dict[str, object], str]] = [
    ({"input": []}, "input"),
    ({"input": [{"type": "web_search_call"}]}, "input[0]"),
    ({"input": [{"role": "robot", "content": "a"}]}, "input[0].role"),
    ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0]"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"tool_choice": {"type": "mcp"}}, "tool_choice.type"),
    ({"conversation": "conv_1"}, "conversation"),
    ({"background": True, "store": False}, "store"),
    ({"include": ["secrets"]}, "include[0]"),
    ({"reasoning": {"effort": "huge"}}, "reasoning.effort"),
    ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
    ({"text": {"format": {"type": "json_schema", "name": "a b", "schema": {}}}}, "text.format.name"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"max_tokens": 5}, "max_tokens"),
]


@pytest.mark.parametrize(("more", "param"), BAD, ids=repr)
def test_a_bad_field_is_named(more: dict[str, object], param: str) -> None:
    cluster = FakeCluster()

    async def use(client: openai.AsyncOpenAI) -> None:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.responses.create(model=MODEL, input="Hi", extra_body=more)
        assert caught.value.param == param

    with_client(cluster, use)
    assert cluster.calls == []
