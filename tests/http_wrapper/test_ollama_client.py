"""Ollama's own Python client against the real server: what it parses is what the dialect must be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias, cast

import ollama
import pytest

from chorus_http.settings import HttpSettings
from chorus_proto.cluster import FOR_EVER_S, Call
from chorus_proto.errors import ClusterError, InvalidRequest, ModelNotFound, NodeLost, QueueFull
from chorus_proto.generation import Channel, Delta, Done, Effort, Generation, Piece, ToolCallPart
from chorus_proto.ids import ModelName
from chorus_proto.transfers import Transfer, TransferKind, TransferState
from chorus_proto.values import (
    AggregateStrategy,
    CouncilSummary,
    EngineKind,
    ModelFile,
    ModelShape,
    ModelSummary,
    Replica,
    ReplicaReport,
    ReplicaState,
    ThinkingStyle,
)
from tests.support.fake_cluster import MODEL, NODE, FakeCluster, failing, paris, ready_state, waiting
from tests.support.http_face import http_face, until

Turn: TypeAlias = Mapping[str, object] | ollama.Message

HI: list[Turn] = [{"role": "user", "content": "What is the capital of France?"}]
SHAPE = ModelShape(
    architecture="llama",
    layers=16,
    embedding_length=2048,
    heads=32,
    kv_heads=8,
    key_length=64,
    value_length=64,
    vocabulary=128_256,
    trained_context_tokens=131_072,
    parameters=1_235_814_432,
)
QUICK = HttpSettings(http_port=0, drain_within_s=1.0, ping_every_s=0.1, stream_open_after_s=0.2)


def with_client(
    cluster: FakeCluster, use: Callable[[ollama.AsyncClient], Awaitable[None]], settings: HttpSettings | None = None
) -> None:
    async def run() -> None:
        async with http_face(cluster, settings) as server:
            client = ollama.AsyncClient(host=server.url, timeout=10)
            try:
                await use(client)
            finally:
                await client.close()

    asyncio.run(run())


async def chat(client: ollama.AsyncClient, messages: Sequence[Turn] = HI, **more: object) -> ollama.ChatResponse:
    """One answer; the client's own method has types that no checker can read."""
    ask = cast("Callable[..., Awaitable[ollama.ChatResponse]]", getattr(client, "chat"))  # noqa: B009  # as above
    return await ask(MODEL, messages, **more)


async def chatted(client: ollama.AsyncClient, **more: object) -> AsyncGenerator[ollama.ChatResponse, None]:
    """A streamed answer, as above."""
    ask = cast("Callable[..., Awaitable[AsyncGenerator[ollama.ChatResponse, None]]]", getattr(client, "chat"))  # noqa: B009
    return await ask(MODEL, HI, stream=True, **more)


async def pulling(client: ollama.AsyncClient) -> AsyncGenerator[ollama.ProgressResponse, None]:
    steps = await client.pull("llama3.2:1b", stream=True)
    return cast("AsyncGenerator[ollama.ProgressResponse, None]", steps)


def generation_of(cluster: FakeCluster) -> Generation:
    return Generation.decoded(cluster.calls[-1].generation)


def with_replica(report: ReplicaReport, file: ModelFile | None = None) -> FakeCluster:
    cluster = FakeCluster()
    state = ready_state()
    node = replace(state.nodes[0], replicas=(Replica(report=report),), models=() if file is None else (file,))
    cluster.shown_state = replace(state, nodes=(node,))
    return cluster


def test_a_chat_answer_has_message_reason_and_counts() -> None:
    async def use(client: ollama.AsyncClient) -> None:
        answer = await chat(client, HI, options={"num_predict": 9, "seed": 1, "stop": ["\n"], "num_ctx": 8192})
        assert answer.message.role == "assistant"
        assert answer.message.content == "The capital is Paris."
        assert answer.message.thinking is None
        assert (answer.model, answer.done, answer.done_reason) == (MODEL, True, "stop")
        assert (answer.prompt_eval_count, answer.eval_count) == (7, 2)
        assert None not in (answer.eval_duration, answer.created_at)
        assert answer.load_duration == 250_000_000, "the wait for a loaded model and a place in it"
        assert answer.total_duration == answer.load_duration, "beside the no time at all that the played engine took"

    cluster = FakeCluster()
    with_client(cluster, use)
    asked = generation_of(cluster)
    assert (asked.max_tokens, asked.seed, asked.stop, asked.separate_thinking) == (9, 1, ("\n",), True)


def test_a_chat_stream_is_one_object_a_line_and_only_the_last_is_done() -> None:
    async def use(client: ollama.AsyncClient) -> None:
        parts = [part async for part in await chatted(client)]
        assert "".join(part.message.content or "" for part in parts) == "The capital is Paris."
        assert [part.done for part in parts] == [False, False, True]
        assert (parts[-1].done_reason, parts[-1].eval_count) == ("stop", 2)
        assert parts[-1].load_duration == 250_000_000

    with_client(FakeCluster(), use)


def test_thoughts_are_a_string_beside_the_content() -> None:
    """Trap 6: a client takes `thinking` for a text."""

    async def thinker(call: Call) -> AsyncGenerator[Piece, None]:
        yield Delta("France, so ", channel=Channel.ANALYSIS)
        yield Delta("Paris.", channel=Channel.ANALYSIS)
        yield Delta("Paris")
        yield Done(finish_reason="stop", completion_tokens=3)

    async def use(client: ollama.AsyncClient) -> None:
        whole = await chat(client, HI, think="low")
        assert (whole.message.thinking, whole.message.content) == ("France, so Paris.", "Paris")
        parts = [part async for part in await chatted(client, think=True)]
        assert "".join(part.message.thinking or "" for part in parts) == "France, so Paris."
        assert "".join(part.message.content or "" for part in parts) == "Paris"
        answer = await client.generate(MODEL, "Hi", think=False)
        assert (answer.thinking, answer.response) == ("France, so Paris.", "Paris")

    cluster = FakeCluster(thinker)
    with_client(cluster, use)
    efforts = [Generation.decoded(call.generation).reasoning_effort for call in cluster.calls]
    assert efforts == [Effort.LOW, Effort.MEDIUM, Effort.NONE]


def test_thoughts_that_a_client_sends_back_are_not_part_of_the_history() -> None:
    async def use(client: ollama.AsyncClient) -> None:
        await chat(client, [*HI, {"role": "assistant", "content": "Paris", "thinking": "hm"}, *HI])

    cluster = FakeCluster()
    with_client(cluster, use)
    messages = generation_of(cluster).messages
    assert messages and [message.content for message in messages] == [
        "What is the capital of France?",
        "Paris",
        "What is the capital of France?",
    ]


def test_tool_calls_come_with_their_arguments_as_an_object_and_go_back() -> None:
    def weather(city: str) -> str:
        """Tell the weather.

        Args:
            city: where
        """
        return city

    async def caller(call: Call) -> AsyncGenerator[Piece, None]:
        yield Delta("", tool_calls=(ToolCallPart(0, id="call_1", name="weather", arguments='{"city":'),))
        yield Delta("", tool_calls=(ToolCallPart(0, arguments='"Paris"}'),))
        yield Done(finish_reason="tool_calls", completion_tokens=9)

    async def use(client: ollama.AsyncClient) -> None:
        whole = await chat(client, HI, tools=[weather])
        made = whole.message.tool_calls
        assert made and (made[0].function.name, made[0].function.arguments) == ("weather", {"city": "Paris"})
        parts = [part async for part in await chatted(client, tools=[weather])]
        assert [call.function.name for part in parts for call in part.message.tool_calls or ()] == ["weather"]
        answered = {"role": "tool", "tool_name": "weather", "content": "sunny"}
        await chat(client, [*HI, whole.message, answered], tools=[weather])

    cluster = FakeCluster(caller)
    with_client(cluster, use)
    asked = generation_of(cluster)
    assert asked.tools is not None and '"city"' in asked.tools
    assert asked.messages and asked.messages[-2].tool_calls[0].function.arguments == '{"city":"Paris"}'
    assert (asked.messages[-1].role, asked.messages[-1].name) == ("tool", "weather")


def test_generate_takes_system_raw_suffix_and_a_schema() -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}

    async def use(client: ollama.AsyncClient) -> None:
        answer = await client.generate(MODEL, "France?", system="Be brief.", format=schema)
        assert (answer.response, answer.done) == ("The capital is Paris.", True)
        parts = [part async for part in await client.generate(MODEL, "France:", raw=True, stream=True)]
        assert "".join(part.response or "" for part in parts) == "The capital is Paris."
        await client.generate(MODEL, "def f(", suffix="return 1")

    cluster = FakeCluster()
    with_client(cluster, use)
    asked = [Generation.decoded(call.generation) for call in cluster.calls]
    assert asked[0].messages and [message.role for message in asked[0].messages] == ["system", "user"]
    assert asked[0].response_format is not None and '"city"' in asked[0].response_format
    assert (asked[1].prompt, asked[1].messages) == ("France:", None)
    assert (asked[2].prompt, asked[2].suffix) == ("def f(", "return 1")


def test_logprobs_are_told() -> None:
    async def engine(call: Call) -> AsyncGenerator[Piece, None]:
        said = b'{"content":[{"token":"Paris","logprob":-0.5,"bytes":[80],"top_logprobs":[]}]}'
        yield Delta("Paris", logprobs=said)
        yield Done(finish_reason="stop", completion_tokens=1)

    async def use(client: ollama.AsyncClient) -> None:
        answer = await chat(client, HI, logprobs=True, top_logprobs=1)
        assert answer.logprobs and (answer.logprobs[0].token, answer.logprobs[0].logprob) == ("Paris", -0.5)

    with_client(FakeCluster(engine), use)


def test_tags_name_every_model_with_its_tag_in_both_fields() -> None:
    """Trap 7."""

    async def use(client: ollama.AsyncClient) -> None:
        listed = (await client.list()).models
        assert [row.model for row in listed] == [MODEL, "org/large:8b"]
        assert all(row.details is not None for row in listed)

    with_client(FakeCluster(), use)


def test_a_council_is_listed_shown_and_asked_as_any_model() -> None:
    """Copilot shows each model that is listed, and `ollama run` loads it before it asks."""
    name = ModelName("council/all")
    asked_as = f"{name}:latest"
    cluster = FakeCluster()
    all_pcs = CouncilSummary(name=name, strategy=AggregateStrategy.VOTE, members="every PC")
    cluster.shown_state = replace(ready_state(), councils=(all_pcs,))

    async def use(client: ollama.AsyncClient) -> None:
        assert [row.model for row in (await client.list()).models][-1] == asked_as
        shown = await client.show(asked_as)
        assert shown.modelinfo is not None
        assert shown.modelinfo["council.context_length"] == 2048
        assert shown.capabilities == ["completion"]
        assert (await client.generate(asked_as, "")).done_reason == "load"
        assert (await client.generate(asked_as, "", keep_alive=0)).done_reason == "unload"
        assert (cluster.loads, cluster.unloads) == ([], [])
        assert (await client.generate(asked_as, "Hi")).response == "The capital is Paris."
        assert cluster.calls[-1].model == asked_as

    with_client(cluster, use)


def test_a_name_without_a_tag_means_latest() -> None:
    cluster = FakeCluster()
    plain = ModelSummary(name=ModelName("llama3:latest"), ready_on=(NODE,), on_disk_at=(NODE,))
    cluster.shown_state = replace(ready_state(), models=(plain,))

    async def use(client: ollama.AsyncClient) -> None:
        assert (await client.show("llama3")).modelinfo is not None
        answer = await client.generate("llama3", "Hi")
        assert answer.model == "llama3:latest"

    with_client(cluster, use)


def test_show_always_has_model_info_and_capabilities() -> None:
    """Trap 1: without `model_info` the client raises; Copilot reads the context length from it."""
    file = ModelFile(
        name=MODEL,
        file_bytes=1 << 30,
        engine=EngineKind.LLAMA_SERVER,
        shape=SHAPE,
        tools=True,
        thinking=ThinkingStyle.TAGS,
    )
    ready = ReplicaReport(model=MODEL, state=ReplicaState.READY)

    async def use(client: ollama.AsyncClient) -> None:
        known = await client.show(MODEL)
        assert known.modelinfo is not None and known.capabilities is not None
        assert known.modelinfo["general.architecture"] == "llama"
        assert known.modelinfo["llama.context_length"] == 2048
        assert {"completion", "tools", "thinking"} <= set(known.capabilities)
        assert known.parameters is not None and known.parameters.split() == ["num_ctx", "2048"]
        bare = await client.show("org/large:8b")
        assert bare.modelinfo is not None and "general.architecture" in bare.modelinfo
        assert bare.capabilities == ["completion"]
        with pytest.raises(ollama.ResponseError, match="Closest") as refused:
            await client.show("tinny:1b")
        assert refused.value.status_code == 404

    with_client(with_replica(ready, file), use)


def test_ps_tells_size_expiry_and_context_of_what_is_loaded() -> None:
    report = ReplicaReport(
        model=MODEL, state=ReplicaState.READY, resident_bytes=123, keep_alive_s=300.0, context_tokens=4096
    )

    async def use(client: ollama.AsyncClient) -> None:
        (row,) = (await client.ps()).models
        assert (row.model, row.name, row.size, row.size_vram, row.context_length) == (MODEL, MODEL, 123, 0, 4096)
        assert row.expires_at is not None and row.expires_at.tzinfo is not None

    with_client(with_replica(report), use)


def test_ps_is_an_empty_list_while_nothing_is_loaded() -> None:
    async def use(client: ollama.AsyncClient) -> None:
        assert (await client.ps()).models == []

    with_client(FakeCluster(), use)


def test_an_empty_prompt_loads_and_answers_once_the_model_is_there() -> None:
    cluster = with_replica(ReplicaReport(model=MODEL, state=ReplicaState.READY))

    async def use(client: ollama.AsyncClient) -> None:
        loaded = await client.generate(MODEL, "", keep_alive="10m")
        assert (loaded.response, loaded.done, loaded.done_reason) == ("", True, "load")
        assert (await chat(client, [], keep_alive=-1)).done_reason == "load"

    with_client(cluster, use)
    assert cluster.loads == [(MODEL, None, 600.0), (MODEL, None, FOR_EVER_S)]
    assert not cluster.calls


def test_keep_alive_zero_without_a_prompt_unloads() -> None:
    async def use(client: ollama.AsyncClient) -> None:
        freed = await client.generate(MODEL, "", keep_alive=0)
        assert (freed.response, freed.done_reason) == ("", "unload")

    cluster = FakeCluster()
    with_client(cluster, use)
    assert cluster.unloads == [(MODEL, None)]


def test_keep_alive_of_a_request_is_told_to_its_node_after_the_answer() -> None:
    """Continue sends it each time."""

    async def use(client: ollama.AsyncClient) -> None:
        await chat(client, HI, keep_alive=1800)
        _ = [part async for part in await chatted(client, keep_alive=0)]
        await until(lambda: bool(cluster.loads and cluster.unloads))

    cluster = FakeCluster()
    with_client(cluster, use)
    assert (cluster.loads, cluster.unloads) == ([(MODEL, NODE, 1800.0)], [(MODEL, NODE)])


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ModelNotFound("no such model", param="model"), 404),
        (InvalidRequest("bad"), 400),
        (QueueFull("1000 requests are waiting already"), 503),
    ],
)
def test_a_refusal_is_a_text_under_error_with_its_status(error: ClusterError, status: int) -> None:
    async def use(client: ollama.AsyncClient) -> None:
        for stream in (False, True):
            with pytest.raises(ollama.ResponseError) as refused:
                if stream:
                    _ = [part async for part in await chatted(client)]
                else:
                    await chat(client)
            assert (refused.value.status_code, error.message in refused.value.error) == (status, True)

    with_client(FakeCluster(failing(error)), use)


def test_a_failure_in_the_middle_of_a_stream_is_its_last_line() -> None:
    """Trap 9."""
    shown: list[str] = []

    async def use(client: ollama.AsyncClient) -> None:
        with pytest.raises(ollama.ResponseError, match="the node went away"):
            async for part in await chatted(client):
                shown.append(part.message.content or "")

    with_client(FakeCluster(failing(NodeLost("the node went away"), after=(Delta("The "),))), use)
    assert shown == ["The "]


def test_a_silent_stream_is_kept_awake_by_lines_that_add_nothing() -> None:
    gate = asyncio.Event()

    async def use(client: ollama.AsyncClient) -> None:
        said: list[str] = []
        empty = 0
        async for part in await chatted(client):
            empty += not (part.message.content or part.done)
            said.append(part.message.content or "")
            if empty == 2:
                gate.set()
        assert "".join(said) == "The capital is Paris."
        assert empty >= 2

    with_client(FakeCluster(waiting(gate)), use, QUICK)


def test_a_caller_who_leaves_ends_the_generation() -> None:
    gate = asyncio.Event()

    async def use(client: ollama.AsyncClient) -> None:
        parts = await chatted(client)
        await anext(parts)
        await parts.aclose()
        await until(lambda: bool(cluster.cancelled))

    cluster = FakeCluster(waiting(gate, before=(Delta("The "),)))
    with_client(cluster, use, QUICK)


def moving(state: TransferState, done_bytes: int, error: ClusterError | None = None) -> Transfer:
    return Transfer(
        transfer_id="abc",
        kind=TransferKind.PULL,
        state=state,
        model=ModelName("llama3.2:1b"),
        node_id=NODE,
        node_name="attic-pc",
        done_bytes=done_bytes,
        total_bytes=100,
        digest="ab" * 32,
        error=error,
    )


def test_a_pull_tells_its_progress_and_ends_with_success() -> None:
    cluster = FakeCluster()
    running, done = TransferState.RUNNING, TransferState.DONE
    steps = [moving(TransferState.WAITING, 0), moving(running, 10), moving(running, 60), moving(done, 100)]

    async def use(client: ollama.AsyncClient) -> None:
        cluster.pull_steps = list(steps)
        told = [step async for step in await client.pull("llama3.2:1b", stream=True)]
        assert (told[0].status, told[-1].status) == ("pulling manifest", "success")
        moved = [step for step in told if step.digest]
        assert [step.completed for step in moved] == [10, 60, 100]
        assert {(step.digest, step.total) for step in moved} == {("sha256:" + "ab" * 32, 100)}
        cluster.pull_steps, cluster.pull_begun = list(steps), False
        assert (await client.pull("llama3.2:1b")).status == "success"

    with_client(cluster, use)
    assert (cluster.pulled, cluster.cancelled_transfers) == (["llama3.2:1b"] * 2, [])


def test_a_pull_that_fails_says_why() -> None:
    cluster = FakeCluster()
    broken = NodeLost("attic-pc did not come back")

    async def use(client: ollama.AsyncClient) -> None:
        cluster.pull_steps = [moving(TransferState.RUNNING, 10), moving(TransferState.FAILED, 10, broken)]
        with pytest.raises(ollama.ResponseError, match="did not come back"):
            _ = [step async for step in await client.pull("llama3.2:1b", stream=True)]
        cluster.pull_steps = None
        with pytest.raises(ollama.ResponseError, match="fetches nothing") as refused:
            await client.pull("llama3.2:1b")
        assert refused.value.status_code == 404

    with_client(cluster, use)


def test_a_pull_stops_when_who_began_it_leaves_and_goes_on_when_others_wait_for_it() -> None:
    cluster = FakeCluster()

    async def use(client: ollama.AsyncClient) -> None:
        cluster.pull_steps = [moving(TransferState.RUNNING, 10)]
        first, second = await pulling(client), await pulling(client)
        await anext(first)
        await anext(second)
        await first.aclose()
        await asyncio.sleep(0.3)
        assert cluster.cancelled_transfers == []
        await second.aclose()
        await until(lambda: cluster.cancelled_transfers == ["abc"])

    with_client(cluster, use, QUICK)


def test_a_copy_is_a_further_name_and_a_deletion_is_ordered() -> None:
    cluster = FakeCluster()

    async def use(client: ollama.AsyncClient) -> None:
        assert (await client.copy(MODEL, "mine")).status == "success"
        assert (await client.delete("mine")).status == "success"
        cluster.load_error = ModelNotFound("model 'nope' is on no node", param="model")
        for asked in (client.copy("nope", "mine"), client.delete("nope")):
            with pytest.raises(ollama.ResponseError, match="is on no node") as refused:
                await asked
            assert refused.value.status_code == 404

    with_client(cluster, use)
    assert cluster.aliased[0] == ("mine", MODEL)
    assert cluster.deleted == ["mine", "nope"]


def test_what_ollama_can_do_with_models_and_chorus_cannot_is_refused_in_words() -> None:
    async def use(client: ollama.AsyncClient) -> None:
        for asked in (client.create("mine", from_=MODEL), client.push(MODEL)):
            with pytest.raises(ollama.ResponseError) as refused:
                await asked
            assert refused.value.status_code == 400 and refused.value.error

    with_client(FakeCluster(), use)


def test_metadata_is_answered_while_every_generation_hangs() -> None:
    """Trap 10: LibreChat waits 5 s, and nothing here waits for a slot."""

    async def use(client: ollama.AsyncClient) -> None:
        hanging = [asyncio.create_task(chat(client)) for _ in range(8)]
        await until(lambda: len(cluster.calls) == 8)
        async with asyncio.timeout(2):
            await asyncio.gather(client.list(), client.ps(), client.show(MODEL))
        for task in hanging:
            task.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)

    cluster = FakeCluster(waiting(asyncio.Event()))
    with_client(cluster, use)


def test_the_engine_is_asked_for_the_name_that_the_caller_used() -> None:
    async def use(client: ollama.AsyncClient) -> None:
        await client.generate(MODEL, "Hi")

    cluster = FakeCluster(paris)
    with_client(cluster, use)
    assert cluster.calls[0].model == MODEL
