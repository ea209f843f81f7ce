"""Mirrors chorus_http/rag/chat_option.py: one option `rag`, whichever API a chat comes by."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import msgspec
import pytest

from chorus_http.chats.store import ChatStore
from chorus_http.rag.opening import library_door
from chorus_http.settings import HttpSettings
from chorus_proto.clock import SystemClock
from chorus_proto.cluster import Call
from chorus_proto.generation import Delta, Done, Generation, Piece
from tests.support.embedder import WordEmbedder
from tests.support.fake_cluster import MODEL, FakeCluster
from tests.support.http_face import WITHIN_S, http_face

FACT = "The cellar floods in spring."
QUESTION = "When, cellar?"
Json = dict[str, object]
Scenario = Callable[[httpx.AsyncClient, FakeCluster], Awaitable[None]]


async def spring(_call: Call) -> AsyncGenerator[Piece, None]:
    yield Delta("Spring [1], not [7].")
    yield Done(finish_reason="stop", prompt_tokens=9, completion_tokens=3)


@asynccontextmanager
async def house(root: Path) -> AsyncGenerator[tuple[httpx.AsyncClient, FakeCluster]]:
    """A wrapper with chats and documents, of which it holds one."""
    settings = replace(HttpSettings(), http_port=0, drain_within_s=1.0, state_dir=root)
    cluster = FakeCluster(engine=spring)
    store = ChatStore.open(root / "chats.sqlite")
    try:
        async with (
            library_door(settings, WordEmbedder(), SystemClock()) as door,
            http_face(cluster, settings, door, chats=store) as server,
            httpx.AsyncClient(base_url=server.url, timeout=WITHIN_S) as http,
        ):
            added = await http.post("/rag/documents", json={"text": FACT, "collection": "house"})
            assert added.status_code == 200, added.text
            yield http, cluster
    finally:
        store.close()


def play(root: Path, scenario: Scenario) -> None:
    async def run() -> None:
        async with asyncio.timeout(30), house(root) as (http, cluster):
            await scenario(http, cluster)

    asyncio.run(run())


def prompts(cluster: FakeCluster) -> list[str]:
    """The last turn of each call."""
    turns = [Generation.decoded(call.generation).messages for call in cluster.calls]
    return [messages[-1].content for messages in turns if messages]


def chat_of(path: str, **more: object) -> Json:
    body: Json = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], **more}
    return body | ({"max_tokens": 50} if path == "/v1/messages" else {})


APIS = ("/v1/chat/completions", "/api/chat", "/v1/messages")


@pytest.mark.parametrize("path", APIS)
def test_every_api_puts_the_question_together_with_passages_and_tells_them(tmp_path: Path, path: str) -> None:
    async def scenario(http: httpx.AsyncClient, cluster: FakeCluster) -> None:
        reply = await http.post(path, json=chat_of(path, rag={"collection": "house"}, stream=False))
        assert reply.status_code == 200, reply.text
        rag = reply.json()["rag"]
        assert [(one["number"], one["text"], one["cited"]) for one in rag["sources"]] == [(1, FACT, True)]
        assert rag["wrong_citations"] == [7]
        assert FACT in prompts(cluster)[0] and prompts(cluster)[0].endswith(f"Question: {QUESTION}")
        plain = (await http.post(path, json=chat_of(path, rag=False, stream=False))).json()
        assert "rag" not in plain and prompts(cluster)[-1] == QUESTION

    play(tmp_path, scenario)


@pytest.mark.parametrize("path", APIS)
def test_every_api_refuses_an_option_that_is_none_in_its_own_words(tmp_path: Path, path: str) -> None:
    async def scenario(http: httpx.AsyncClient, cluster: FakeCluster) -> None:
        for wrong, status in (({"top": 1}, 400), ("yes", 400), ({"collection": "attic"}, 404)):
            reply = await http.post(path, json=chat_of(path, rag=wrong))
            assert reply.status_code == status and "error" in reply.json(), reply.text
        assert not cluster.calls

    play(tmp_path, scenario)


def test_a_stream_of_ollama_begins_with_a_line_that_its_clients_can_read(tmp_path: Path) -> None:
    async def scenario(http: httpx.AsyncClient, _cluster: FakeCluster) -> None:
        # Ollama streams unless it is told not to.
        text = (await http.post("/api/chat", json=chat_of("/api/chat", rag={"collection": "house"}))).text
        lines = [msgspec.json.decode(line, type=Json) for line in text.splitlines()]
        assert all("message" in line and "done" in line for line in lines)
        assert "rag" in lines[0] and not any("rag" in line for line in lines[1:])
        assert lines[-1]["done"] is True

    play(tmp_path, scenario)


def test_a_stream_of_anthropic_begins_with_an_event_of_its_own(tmp_path: Path) -> None:
    async def scenario(http: httpx.AsyncClient, _cluster: FakeCluster) -> None:
        body = chat_of("/v1/messages", rag={"collection": "house"}, stream=True)
        text = (await http.post("/v1/messages", json=body)).text
        names = [line.removeprefix("event: ") for line in text.splitlines() if line.startswith("event: ")]
        assert names[:2] == ["rag", "message_start"] and names[-1] == "message_stop"

    play(tmp_path, scenario)


def test_a_chat_session_answers_from_documents_and_remembers_its_sources(tmp_path: Path) -> None:
    async def scenario(http: httpx.AsyncClient, cluster: FakeCluster) -> None:
        session = (await http.post("/chat/sessions", json={"model": MODEL})).json()["id"]
        said = {"content": QUESTION, "rag": {"collection": "house"}}
        answer = (await http.post(f"/chat/sessions/{session}/messages", json=said)).json()["message"]["answer"]
        assert [(one["text"], one["cited"]) for one in answer["sources"]] == [(FACT, True)]
        assert answer["wrong_citations"] == [7]
        assert FACT in prompts(cluster)[0]
        # What was said stays what was said: the passages are of the one answer, not of the conversation.
        kept = (await http.get(f"/chat/sessions/{session}")).json()["messages"]
        assert [message["content"] for message in kept] == [QUESTION, "Spring [1], not [7]."]
        assert kept[1]["answer"]["sources"] == answer["sources"]
        await http.post(f"/chat/sessions/{session}/messages", json={"content": "And now?"})
        assert prompts(cluster)[1] == "And now?"

        again = f"/chat/sessions/{session}/messages/{kept[1]['id']}/regenerate"
        stream = (await http.post(again, json={"stream": True, "rag": True})).text
        assert '"sources":[]' in stream  # nothing lies in the default collection
        refused = await http.post(f"/chat/sessions/{session}/messages", json={"content": "x", "rag": {"top": 1}})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "rag.top")

    play(tmp_path, scenario)


@pytest.mark.parametrize("path", APIS)
def test_without_the_packages_the_option_is_refused_with_what_to_install(path: str) -> None:
    async def run() -> None:
        async with http_face(FakeCluster()) as server, httpx.AsyncClient(base_url=server.url) as http:
            reply = await http.post(path, json=chat_of(path, rag=True))
            assert reply.status_code == 400 and "chorus-llm[rag]" in reply.text
            assert (await http.post(path, json=chat_of(path, rag=False, stream=False))).status_code == 200

    asyncio.run(run())
