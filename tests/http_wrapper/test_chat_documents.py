"""Chat sessions answered from the caller's documents: mirrors `grounding` of chats/ and of rag/chat_option.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import httpx

from chorus_http.chats.store import ChatStore
from chorus_http.rag.opening import library_door
from chorus_http.settings import HttpSettings
from chorus_proto.clock import SystemClock
from chorus_proto.cluster import Call
from chorus_proto.generation import Delta, Done, Generation, Piece
from tests.support.embedder import WordEmbedder
from tests.support.fake_cluster import FakeCluster
from tests.support.http_face import http_face

Json = dict[str, object]


def answering(text: str, prompts: list[str]) -> Callable[[Call], AsyncGenerator[Piece, None]]:
    async def engine(call: Call) -> AsyncGenerator[Piece, None]:
        messages = Generation.decoded(call.generation).messages
        assert messages
        prompts.append(messages[-1].content)
        yield Delta(text)
        yield Done(finish_reason="stop", prompt_tokens=9, completion_tokens=3)

    return engine


def play(
    root: Path, scenario: Callable[[httpx.AsyncClient, FakeCluster], Awaitable[None]], *, rag: bool = True
) -> None:
    async def run() -> None:
        settings = replace(HttpSettings(), http_port=0, drain_within_s=1.0, state_dir=root)
        store, cluster = ChatStore.open(root / "chats.sqlite"), FakeCluster()
        try:
            async with (
                asyncio.timeout(30),
                library_door(settings, WordEmbedder(), SystemClock()) as door,
                http_face(cluster, settings, door if rag else None, chats=store) as server,
                httpx.AsyncClient(base_url=server.url, timeout=10) as client,
            ):
                await scenario(client, cluster)
        finally:
            store.close()

    asyncio.run(run())


async def asked(client: httpx.AsyncClient, **body: object) -> httpx.Response:
    session = (await client.post("/chat/sessions", json={})).json()["id"]
    return await client.post(f"/chat/sessions/{session}/messages", json=body)


async def documents(client: httpx.AsyncClient, *texts: str) -> None:
    for text in texts:
        reply = await client.post("/rag/documents", json={"text": text, "title": text.split()[0]})
        assert reply.status_code == 200, reply.text


def test_a_chat_with_documents_gives_the_model_passages_and_keeps_those_it_cites(tmp_path: Path) -> None:
    prompts: list[str] = []

    async def scenario(client: httpx.AsyncClient, cluster: FakeCluster) -> None:
        cluster.engine = answering("Thirty days [1].", prompts)
        await documents(client, "leave is thirty days", "lunch is at noon")
        reply = await asked(client, content="how much leave is there", rag=True)
        assert reply.status_code == 200, reply.text
        message, question = reply.json()["message"], reply.json()["question"]
        assert question["content"] == "how much leave is there"
        assert '<passage number="1" from="leave">' in prompts[0]
        sources = cast("list[Json]", message["answer"]["sources"])
        assert next((one["number"], one["title"], one.get("cited", False)) for one in sources) == (1, "leave", True)
        assert not any(one.get("cited") for one in sources[1:])
        session = reply.json()["session"]["id"]
        whole = (await client.get(f"/chat/sessions/{session}")).json()
        assert whole["messages"][1]["answer"]["sources"] == sources

    play(tmp_path, scenario)


def test_the_sources_are_told_before_the_first_word(tmp_path: Path) -> None:
    async def scenario(client: httpx.AsyncClient, cluster: FakeCluster) -> None:
        cluster.engine = answering("Thirty days [1].", [])
        await documents(client, "leave is thirty days")
        reply = await asked(client, content="how much leave is there", rag=True, stream=True)
        started = reply.text.partition("event: started")[2].partition("event: delta")[0]
        assert '"sources":[{"number":1' in started

    play(tmp_path, scenario)


def test_a_question_about_which_nothing_is_found_is_asked_as_it_is(tmp_path: Path) -> None:
    prompts: list[str] = []

    async def scenario(client: httpx.AsyncClient, cluster: FakeCluster) -> None:
        cluster.engine = answering("I do not know.", prompts)
        await documents(client, "leave is thirty days")
        reply = await asked(client, content="how much leave is there", rag={"filter": {"document_id": "doc_none"}})
        assert reply.json()["message"]["answer"]["sources"] == []
        assert prompts == ["how much leave is there"]

    play(tmp_path, scenario)


def test_an_answer_without_documents_says_nothing_of_sources(tmp_path: Path) -> None:
    async def scenario(client: httpx.AsyncClient, cluster: FakeCluster) -> None:
        reply = await asked(client, content="hello", rag=False)
        assert "sources" not in reply.json()["message"]["answer"]

    play(tmp_path, scenario)


def test_an_option_that_is_none_is_refused_by_name(tmp_path: Path) -> None:
    async def scenario(client: httpx.AsyncClient, cluster: FakeCluster) -> None:
        reply = await asked(client, content="hello", rag={"top_k": 0})
        assert reply.status_code == 400
        assert "rag.top_k" in reply.json()["error"]["message"]

    play(tmp_path, scenario)


def test_without_the_packages_a_chat_with_documents_says_what_to_install(tmp_path: Path) -> None:
    async def scenario(client: httpx.AsyncClient, cluster: FakeCluster) -> None:
        reply = await asked(client, content="hello", rag=True)
        assert reply.status_code == 501
        assert "chorus-llm[rag]" in reply.json()["error"]["message"]

    play(tmp_path, scenario, rag=False)
