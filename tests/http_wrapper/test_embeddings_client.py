"""OpenAI's own Python client on the embeddings of the real server; documents ranked by them."""

from __future__ import annotations

import asyncio
import base64
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace

import msgspec
import ollama
import openai
import pytest

from chorus_http.embedder import PART_BYTES, PART_TEXTS
from chorus_proto.cluster import Call
from chorus_proto.errors import ContextLengthExceeded, NodeLost
from chorus_proto.generation import Delta, Done, Generation, Piece, VectorForm
from chorus_proto.values import (
    ClusterState,
    Dialect,
    EngineKind,
    ModelFile,
    Replica,
    ReplicaReport,
    ReplicaState,
)
from tests.support.fake_cluster import MODEL, NODE, FakeCluster, failing, ready_state
from tests.support.http_face import http_face, post, send_raw, until

SLOTS = 3


def vector_of(text: str) -> list[float]:
    """Numbers that tell which text it was."""
    return [float(len(text)), float(ord(text[0])), 0.5]


async def embedding(call: Call) -> AsyncGenerator[Piece, None]:
    """The later the part, the sooner it is done."""
    asked = Generation.decoded(call.generation)
    assert asked.inputs
    assert call.dialect is Dialect.EMBEDDINGS
    number = int(call.request_id.partition("-")[2] or 0)
    await asyncio.sleep(0.02 / (number + 1))
    for text in asked.inputs:
        numbers = vector_of(text)
        packed = base64.b64encode(struct.pack("<3f", *numbers)).decode()
        yield Delta(msgspec.json.encode(packed if asked.vectors is VectorForm.BASE64 else numbers).decode() + "\n", 0)
    yield Done(finish_reason="stop", prompt_tokens=len(asked.inputs))


def with_client(cluster: FakeCluster, use: Callable[[openai.AsyncOpenAI], Awaitable[None]]) -> None:
    async def run() -> None:
        async with (
            http_face(cluster) as server,
            openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=10) as client,
        ):
            await use(client)

    asyncio.run(run())


def state_with_slots() -> ClusterState:
    state = ready_state()
    report = ReplicaReport(model=MODEL, state=ReplicaState.READY, slots=SLOTS)
    node = replace(
        state.nodes[0],
        models=(ModelFile(name=MODEL, file_bytes=1, engine=EngineKind.SCRIPTED, digest="sha256:aa"),),
        replicas=(Replica(report=report),),
    )
    return replace(state, nodes=(node,))


def test_the_clients_own_base64_and_plain_floats_are_the_same_vectors() -> None:
    cluster = FakeCluster(embedding)

    async def use(client: openai.AsyncOpenAI) -> None:
        packed = await client.embeddings.create(model=MODEL, input="Hello")
        assert packed.data[0].embedding == vector_of("Hello")
        assert packed.usage.prompt_tokens == packed.usage.total_tokens == 1
        plain = await client.embeddings.create(model=MODEL, input=["a", "bb"], encoding_format="float", dimensions=3)
        assert [row.embedding for row in plain.data] == [vector_of("a"), vector_of("bb")]
        assert [row.index for row in plain.data] == [0, 1]

    with_client(cluster, use)
    forms = [Generation.decoded(call.generation).vectors for call in cluster.calls]
    assert forms == [VectorForm.BASE64, VectorForm.FLOATS]
    assert Generation.decoded(cluster.calls[1].generation).dimensions == 3


def test_many_texts_go_out_in_parts_to_nodes_of_the_same_file_and_come_back_in_order() -> None:
    cluster = FakeCluster(embedding)
    cluster.shown_state = state_with_slots()
    texts = [f"{chr(97 + place % 26)}{'x' * place}" for place in range(PART_TEXTS * 9 + 5)]
    running = most = 0

    async def counted(call: Call) -> AsyncGenerator[Piece, None]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            async for piece in embedding(call):
                yield piece
        finally:
            running -= 1

    cluster.engine = counted

    async def use(client: openai.AsyncOpenAI) -> None:
        found = await client.embeddings.create(model=MODEL, input=texts)
        assert [row.embedding for row in found.data] == [vector_of(text) for text in texts]
        assert found.usage.prompt_tokens == len(texts)

    with_client(cluster, use)
    sizes = [len(Generation.decoded(call.generation).inputs or ()) for call in cluster.calls]
    assert sizes[0] == PART_TEXTS
    assert sizes[1:] == sorted(sizes[1:], reverse=True), "the last parts are small"
    assert sizes[-1] < PART_TEXTS
    assert cluster.calls[0].digest is None
    assert {call.digest for call in cluster.calls[1:]} == {"sha256:aa"}
    assert most == SLOTS
    assert len({call.request_id for call in cluster.calls}) == len(sizes)


def test_long_texts_make_small_parts() -> None:
    cluster = FakeCluster(embedding)

    async def use(client: openai.AsyncOpenAI) -> None:
        await client.embeddings.create(model=MODEL, input=["a" * (PART_BYTES // 2 + 1)] * 3)

    with_client(cluster, use)
    assert len(cluster.calls) == 3


def test_the_first_part_that_fails_ends_the_others() -> None:
    async def third_fails(call: Call) -> AsyncGenerator[Piece, None]:
        if call.request_id.endswith("-2"):
            raise NodeLost("the PC went away")
        if "-" in call.request_id:
            await asyncio.Event().wait()
        async for piece in embedding(call):
            yield piece

    cluster = FakeCluster(third_fails)
    cluster.shown_state = state_with_slots()

    async def use(client: openai.AsyncOpenAI) -> None:
        with pytest.raises(openai.InternalServerError, match="the PC went away"):
            await client.embeddings.create(model=MODEL, input=["a"] * PART_TEXTS * 8)
        await until(lambda: len(cluster.ended) == len(cluster.calls))

    with_client(cluster, use)


def test_token_numbers_are_refused_with_the_fix() -> None:
    cluster = FakeCluster(embedding)

    async def use(client: openai.AsyncOpenAI) -> None:
        for tokens in ([1, 2, 3], [[1, 2], [3]]):
            with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False") as caught:
                await client.embeddings.create(model=MODEL, input=tokens)  # pyright: ignore[reportArgumentType]  # both shapes in one loop
            assert caught.value.param == "input"

    with_client(cluster, use)
    assert cluster.calls == []


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": []}, "input"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"dimensions": 0}, "dimensions"),
        ({"truncate": True}, "truncate"),
    ],
    ids=repr,
)
def test_a_bad_field_is_named(more: dict[str, object], param: str) -> None:
    async def use(client: openai.AsyncOpenAI) -> None:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.embeddings.create(model=MODEL, input="a", extra_body=more)
        assert caught.value.param == param

    with_client(FakeCluster(embedding), use)


def test_a_text_that_does_not_fit_is_the_callers_error() -> None:
    async def use(client: openai.AsyncOpenAI) -> None:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.embeddings.create(model=MODEL, input="a")
        assert (caught.value.param, caught.value.code) == ("input", "context_length_exceeded")

    with_client(FakeCluster(failing(ContextLengthExceeded("602 over 512", param="input"))), use)


def test_documents_are_ranked_by_their_nearness_to_the_query() -> None:
    meaning = {"cat": [1.0, 0.0], "kitten": [0.9, 0.1], "dog": [0.5, 0.5], "tax": [-1.0, 0.0]}

    async def engine(call: Call) -> AsyncGenerator[Piece, None]:
        inputs = Generation.decoded(call.generation).inputs or ()
        for text in inputs:
            yield Delta(msgspec.json.encode(meaning[text]).decode() + "\n", 0)
        yield Done(finish_reason="stop", prompt_tokens=4)

    async def check() -> None:
        async with http_face(FakeCluster(engine)) as server:
            documents = b'["tax",{"text":"dog"},"kitten"],"top_n":2,"return_documents":true}'
            reply = await send_raw(
                server.port, post("/v1/rerank", b'{"model":"m","query":"cat","documents":' + documents)
            )
            assert reply.status == 200
            rows = msgspec.convert(reply.json()["results"], list[dict[str, object]])
            assert [(row["index"], row["document"]) for row in rows] == [(2, {"text": "kitten"}), (1, {"text": "dog"})]
            assert 0.98 < msgspec.convert(rows[0]["relevance_score"], float) < 1
            assert reply.json()["x_chorus"] == {"by": "embeddings"}
            bad = await send_raw(server.port, post("/v1/rerank", b'{"model":"m","query":"cat","documents":[3]}'))
            assert (bad.status, bad.error()["param"]) == (400, "documents[0]")

    asyncio.run(check())


def test_documents_are_ranked_by_a_model_that_ranks_in_several_parts() -> None:
    documents = [str(number) for number in range(40)]

    async def engine(call: Call) -> AsyncGenerator[Piece, None]:
        asked = Generation.decoded(call.generation)
        query, *some = asked.inputs or ("",)
        assert (asked.ranks, query) == (True, "which?")
        yield Delta("null\n", 0)
        for text in some:
            yield Delta(f"{int(text) / 100}\n", 0)
        yield Done(finish_reason="stop", prompt_tokens=len(some))

    cluster = FakeCluster(engine)

    async def check() -> None:
        async with http_face(cluster) as server:
            body = msgspec.json.encode({"model": MODEL, "query": "which?", "documents": documents, "top_n": 3})
            reply = await send_raw(server.port, post("/v1/rerank", body))
            told = [(row["index"], row["relevance_score"]) for row in reply.rows("results")]
            assert told == [(39, 0.39), (38, 0.38), (37, 0.37)]
            assert reply.json()["x_chorus"] == {"by": "reranker"}
            assert reply.json()["usage"] == {"prompt_tokens": 40, "total_tokens": 40}

    asyncio.run(check())
    assert len(cluster.calls) > 1


def test_ollamas_client_gets_its_vectors_in_both_forms_and_keeps_the_model() -> None:
    cluster = FakeCluster(embedding)
    cluster.shown_state = state_with_slots()

    async def check() -> None:
        async with http_face(cluster) as server:
            client = ollama.AsyncClient(host=server.url, timeout=10)
            try:
                await use(client)
            finally:
                await client.close()
            bad = await send_raw(server.port, post("/api/embed", b'{"model":"m","input":[1,2]}'))
            assert (bad.status, bad.json()["param"]) == (400, "input")

    async def use(client: ollama.AsyncClient) -> None:
        many = await client.embed(MODEL, ["a", "bb"], keep_alive="5m")
        assert [list(one) for one in many.embeddings] == [vector_of("a"), vector_of("bb")]
        assert (many.model, many.prompt_eval_count) == (MODEL, 2)
        await until(lambda: cluster.loads == [(MODEL, NODE, 300.0)])
        one = await client.embeddings(MODEL, "ccc")
        assert list(one.embedding) == vector_of("ccc")
        strict = await client.embed(MODEL, "d", truncate=False, dimensions=3)
        assert len(strict.embeddings) == 1
        assert (await client.embed(MODEL, "")).embeddings == []

    asyncio.run(check())
    cuts = [Generation.decoded(call.generation).cuts_inputs for call in cluster.calls]
    assert cuts == [True, True, False]
