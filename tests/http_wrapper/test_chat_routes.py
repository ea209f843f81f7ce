"""Chat sessions through the HTTP door, on a cluster whose engine the test scripts."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import cast

import httpx
import msgspec
import pytest

from chorus_http.app import create_app
from chorus_http.chats.store import ChatStore
from chorus_http.exchange import current_exchange
from chorus_http.listen import serving
from chorus_http.settings import HttpSettings
from chorus_proto.clock import SystemClock
from chorus_proto.cluster import AskDelta, AskFinished, Call
from chorus_proto.errors import ContextLengthExceeded, EngineFailed
from chorus_proto.generation import Delta, Done, Generation, Piece
from chorus_proto.ids import ModelName
from chorus_proto.values import AggregateStrategy, CouncilSummary, ModelSummary
from tests.support.fake_cluster import MODEL, NODE, FakeCluster, council, failing, waiting
from tests.support.http_face import WITHIN_S, http_face, until

Json = dict[str, object]
Scenario = Callable[[httpx.AsyncClient, FakeCluster], Awaitable[None]]


def play(tmp_path: Path, scenario: Scenario, cluster: FakeCluster | None = None, **settings: object) -> None:
    async def run() -> None:
        store = ChatStore.open(tmp_path / "chats.sqlite")
        chosen = HttpSettings(http_port=0, drain_within_s=1.0, **settings)  # pyright: ignore[reportArgumentType]  # names checked by the dataclass
        told = cluster or FakeCluster()
        try:
            async with (
                asyncio.timeout(30),
                http_face(told, chosen, chats=store) as server,
                httpx.AsyncClient(base_url=server.url, timeout=WITHIN_S) as client,
            ):
                await scenario(client, told)
        finally:
            store.close()

    asyncio.run(run())


async def made(client: httpx.AsyncClient, **body: object) -> str:
    reply = await client.post("/chat/sessions", json=body)
    assert reply.status_code == 201, reply.text
    return str(reply.json()["id"])


async def said(client: httpx.AsyncClient, session: str, content: str, **more: object) -> Json:
    reply = await client.post(f"/chat/sessions/{session}/messages", json={"content": content, **more})
    assert reply.status_code == 200, reply.text
    return cast("Json", reply.json())


async def texts(client: httpx.AsyncClient, session: str) -> list[str]:
    messages = (await client.get(f"/chat/sessions/{session}")).json()["messages"]
    return [str(message["content"]) for message in messages]


def events_of(raw: str) -> list[tuple[str, Json]]:
    """Name and body of each server-sent event; comments are left out."""
    found: list[tuple[str, Json]] = []
    for block in raw.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.split("\n") if line and not line.startswith(":"))
        if "data" in lines:
            found.append((lines.get("event", ""), msgspec.json.decode(lines["data"].encode(), type=Json)))
    return found


class Watching:
    """One tab: the events of one stream as they come."""

    def __init__(self, client: httpx.AsyncClient, path: str) -> None:
        self._client = client
        self._path = path
        self._raw = ""
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async with self._client.stream("GET", self._path, timeout=None) as reply:
            assert reply.status_code == 200
            async for chunk in reply.aiter_text():
                self._raw += chunk

    @property
    def events(self) -> list[tuple[str, Json]]:
        return events_of(self._raw.rpartition("\n\n")[0] + "\n\n")

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.events]

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def prompts_of(call: Call) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in Generation.decoded(call.generation).messages or ()]


def test_a_session_is_made_talked_to_read_renamed_and_deleted(tmp_path: Path) -> None:
    async def scenario(client: httpx.AsyncClient, cluster: FakeCluster) -> None:
        session = await made(client, title="Capitals", system="Be brief.")
        answer = await said(client, session, "What is the capital of France?")
        message = cast("Json", answer["message"])
        assert (message["role"], message["content"]) == ("assistant", "The capital is Paris.")
        facts = cast("Json", message["answer"])
        assert (facts["model"], facts["node"], facts["finish_reason"]) == (MODEL, "attic-pc", "stop")
        assert (facts["prompt_tokens"], facts["completion_tokens"]) == (7, 2)
        await said(client, session, "And of Italy?")
        assert prompts_of(cluster.calls[1]) == [
            ("system", "Be brief."),
            ("user", "What is the capital of France?"),
            ("assistant", "The capital is Paris."),
            ("user", "And of Italy?"),
        ]
        shown = (await client.get(f"/chat/sessions/{session}")).json()
        assert [one["role"] for one in shown["messages"]] == ["user", "assistant"] * 2
        assert shown["title"] == "Capitals"
        assert shown["running"] is None
        renamed = (await client.put(f"/chat/sessions/{session}/title", json={"title": "Cities"})).json()
        assert renamed["title"] == "Cities"
        (listed,) = (await client.get("/chat/sessions")).json()["sessions"]
        assert (listed["id"], listed["title"]) == (session, "Cities")
        assert (await client.delete(f"/chat/sessions/{session}")).json() == {"id": session, "deleted": True}
        assert (await client.get(f"/chat/sessions/{session}")).status_code == 404
        assert (await client.get("/chat/sessions")).json()["sessions"] == []

    play(tmp_path, scenario)


def test_an_answer_streams_and_the_first_question_names_the_session(tmp_path: Path) -> None:
    async def scenario(client: httpx.AsyncClient, cluster: FakeCluster) -> None:
        session = await made(client)
        reply = await client.post(
            f"/chat/sessions/{session}/messages", json={"content": "What is the capital of France?", "stream": True}
        )
        assert reply.headers["content-type"].startswith("text/event-stream")
        events = events_of(reply.text)
        assert [name for name, _ in events] == ["message", "started", "delta", "delta", "finished"]
        assert "".join(str(body["text"]) for name, body in events if name == "delta") == "The capital is Paris."
        assert cast("Json", events[0][1]["session"])["title"] == "What is the capital of France?"
        assert cast("Json", events[-1][1]["message"])["content"] == "The capital is Paris."

    play(tmp_path, scenario)


def test_editing_and_asking_again_make_branches_and_nothing_is_lost(tmp_path: Path) -> None:
    async def scenario(client: httpx.AsyncClient, cluster: FakeCluster) -> None:
        session = await made(client)
        first = await said(client, session, "What is the capital of France?")
        second = await said(client, session, "And of Italy?")
        question, answer = cast("Json", second["question"]), cast("Json", second["message"])
        edited = await said(client, session, "And of Spain?", edits=question["id"])
        assert await texts(client, session) == [
            "What is the capital of France?",
            "The capital is Paris.",
            "And of Spain?",
            "The capital is Paris.",
        ]
        path = f"/chat/sessions/{session}/messages/{cast('Json', edited['message'])['id']}/regenerate"
        again = (await client.post(path, json={"model": MODEL, "temperature": 1.5})).json()
        assert Generation.decoded(cluster.calls[-1].generation).temperature == 1.5
        shown = (await client.get(f"/chat/sessions/{session}")).json()
        assert shown["head"] == again["message"]["id"]
        assert shown["messages"][2]["versions"] == [question["id"], cast("Json", edited["question"])["id"]]
        assert shown["messages"][3]["versions"] == [cast("Json", edited["message"])["id"], again["message"]["id"]]
        back = (await client.put(f"/chat/sessions/{session}/head", json={"message_id": question["id"]})).json()
        assert [one["content"] for one in back["messages"]][2] == "And of Italy?"
        assert back["head"] == answer["id"]
        everything = (await client.get(f"/chat/sessions/{session}?branches=1")).json()
        assert len(everything["messages"]) == 7
        after = cast("Json", first["message"])["id"]
        await said(client, session, "And of Peru?", after=after)
        assert (await texts(client, session))[2] == "And of Peru?"

    play(tmp_path, scenario)


def test_a_session_open_in_two_tabs_stays_in_step(tmp_path: Path) -> None:
    async def scenario(client: httpx.AsyncClient, cluster: FakeCluster) -> None:
        gate = asyncio.Event()
        cluster.engine = waiting(gate, before=(Delta("Well. "),))
        session = await made(client)
        one = Watching(client, f"/chat/sessions/{session}/events")
        everything = Watching(client, "/chat/events")
        await until(lambda: one.names == ["snapshot"] and everything.names == ["snapshot"])
        asking = asyncio.create_task(said(client, session, "What is the capital of France?"))
        await until(lambda: "delta" in one.names)
        late = Watching(client, f"/chat/sessions/{session}/events")
        await until(lambda: late.names == ["snapshot"])
        running = cast("Json", late.events[0][1]["running"])
        assert (running["content"], running["node"]) == ("Well. ", "attic-pc")
        gate.set()
        answer = await asking
        await until(lambda: "finished" in one.names and "finished" in late.names)
        assert one.names == ["snapshot", "message", "started", "delta", "delta", "delta", "finished"]
        assert one.events[-1][1]["message"] == answer["message"]
        seen = str(running["content"]) + "".join(str(body["text"]) for name, body in late.events if name == "delta")
        assert seen == cast("Json", answer["message"])["content"]
        revisions = [cast("Json", body["session"])["revision"] for _, body in one.events if "session" in body]
        assert revisions == [1, 2, 3]
        await client.put(f"/chat/sessions/{session}/title", json={"title": "Cities"})
        await until(lambda: one.names[-1] == "changed")
        await client.delete(f"/chat/sessions/{session}")
        await until(lambda: one.names[-1] == "deleted" and "deleted" in everything.events[-1][1])
        for tab in (one, late, everything):
            await tab.close()

    play(tmp_path, scenario)


def test_one_tab_stops_the_answer_of_another_and_what_was_said_is_kept(tmp_path: Path) -> None:
    async def scenario(client: httpx.AsyncClient, cluster: FakeCluster) -> None:
        cluster.engine = waiting(asyncio.Event(), before=(Delta("Well. "),))
        session = await made(client)
        one = Watching(client, f"/chat/sessions/{session}/events")
        asking = asyncio.create_task(said(client, session, "Hello?"))
        await until(lambda: "delta" in one.names)
        second = await client.post(f"/chat/sessions/{session}/messages", json={"content": "Me too"})
        assert (second.status_code, second.json()["error"]["code"]) == (409, "session_busy")
        assert (await client.post(f"/chat/sessions/{session}/stop")).json() == {"stopped": True}
        message = cast("Json", (await asking)["message"])
        assert message["content"] == "Well. "
        assert cast("Json", message["answer"])["finish_reason"] == "stopped"
        await until(lambda: len(cluster.cancelled) == 1)
        assert (await client.post(f"/chat/sessions/{session}/stop")).json() == {"stopped": False}
        await one.close()

    play(tmp_path, scenario)


def test_a_caller_who_leaves_stops_the_engine_and_loses_nothing(tmp_path: Path) -> None:
    async def scenario(client: httpx.AsyncClient, cluster: FakeCluster) -> None:
        cluster.engine = waiting(asyncio.Event(), before=(Delta("Well. "),))
        session = await made(client)
        body = {"content": "Hello?", "stream": True}
        async with client.stream("POST", f"/chat/sessions/{session}/messages", json=body) as reply:
            async for chunk in reply.aiter_text():
                if "Well" in chunk:
                    break
        await until(lambda: len(cluster.cancelled) == 1)

        async def kept() -> list[str]:
            return await texts(client, session)

        for _ in range(200):
            if len(await kept()) == 2:
                break
            await asyncio.sleep(0.01)
        assert await kept() == ["Hello?", "Well. "]

    play(tmp_path, scenario)


def test_a_question_is_on_the_disk_before_a_node_hears_of_it(tmp_path: Path) -> None:
    kept: list[tuple[str]] = []

    async def looking(call: Call) -> AsyncGenerator[Piece, None]:
        with closing(sqlite3.connect(tmp_path / "chats.sqlite")) as other_process:
            kept.extend(other_process.execute("SELECT content FROM message"))
        yield Done(finish_reason="stop")

    async def scenario(client: httpx.AsyncClient, cluster: FakeCluster) -> None:
        cluster.engine = looking
        await said(client, await made(client), "Hello?")
        assert kept == [("Hello?",)]

    play(tmp_path, scenario)


def test_sessions_belong_to_who_made_them(tmp_path: Path) -> None:
    async def run() -> None:
        store = ChatStore.open(tmp_path / "chats.sqlite")
        settings = HttpSettings(http_port=0, drain_within_s=1.0)
        app = create_app(FakeCluster(), settings, SystemClock(), chats=store)
        owner = ""

        async def known() -> None:
            current_exchange().user = owner

        app.before_request(known)
        try:
            async with serving(app, settings) as server, httpx.AsyncClient(base_url=server.url) as client:
                owner = "ann"
                session = await made(client, title="Mine")
                await said(client, session, "My secret word is zebra.")
                owner = "bob"
                for method, path in (
                    ("GET", ""),
                    ("DELETE", ""),
                    ("GET", "/events"),
                    ("GET", "/export"),
                    ("POST", "/stop"),
                    ("POST", "/title"),
                ):
                    reply = await client.request(method, f"/chat/sessions/{session}{path}")
                    assert reply.status_code == 404, (method, path)
                body = {"content": "What is the word?"}
                assert (await client.post(f"/chat/sessions/{session}/messages", json=body)).status_code == 404
                assert (await client.get("/chat/search?q=zebra")).json()["results"] == []
                assert (await client.get("/chat/sessions")).json()["sessions"] == []
                owner = "ann"
                assert len((await client.get("/chat/search?q=zebra")).json()["results"]) == 1
        finally:
            store.close()

    asyncio.run(run())


def test_a_question_whose_answer_failed_stays_and_trying_again_does_not_double_it(tmp_path: Path) -> None:
    async def scenario(client: httpx.AsyncClient, cluster: FakeCluster) -> None:
        answers = cluster.engine
        cluster.engine = failing(EngineFailed("out of coffee"))
        session = await made(client)
        one = Watching(client, f"/chat/sessions/{session}/events")
        await until(lambda: one.names == ["snapshot"])
        reply = await client.post(f"/chat/sessions/{session}/messages", json={"content": "Hello?"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (502, "engine_failed")
        await until(lambda: one.names[-1] == "failed")
        assert await texts(client, session) == ["Hello?"]
        cluster.engine = answers
        await said(client, session, "Hello?")
        assert await texts(client, session) == ["Hello?", "The capital is Paris."]
        assert prompts_of(cluster.calls[-1]) == [("user", "Hello?")]
        cluster.engine = failing(EngineFailed("out of coffee"), after=(Delta("It is "),))
        await client.post(f"/chat/sessions/{session}/messages", json={"content": "And now?"})
        shown = (await client.get(f"/chat/sessions/{session}")).json()["messages"][-1]
        assert (shown["content"], shown["answer"]["finish_reason"]) == ("It is ", "failed")
        assert shown["answer"]["error"] == "out of coffee"
        await one.close()

    play(tmp_path, scenario)


def test_a_chat_whose_model_is_gone_can_be_read_and_goes_on_with_another(tmp_path: Path) -> None:
    async def scenario(client: httpx.AsyncClient, cluster: FakeCluster) -> None:
        session = await made(client, model="tiny:2b")
        reply = await client.post(f"/chat/sessions/{session}/messages", json={"content": "Hello?"})
        error = reply.json()["error"]
        assert (reply.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")
        assert "tiny:1b" in error["message"]
        assert await texts(client, session) == []
        changed = (await client.patch(f"/chat/sessions/{session}", json={"model": MODEL})).json()
        assert changed["model"] == MODEL
        await said(client, session, "Hello?")
        cluster.shown_state = replace(cluster.shown_state, models=())
        assert len(await texts(client, session)) == 2
        reply = await client.post(f"/chat/sessions/{session}/messages", json={"content": "Still there?"})
        assert reply.status_code == 404
        open_choice = (await client.patch(f"/chat/sessions/{session}", json={"model": None})).json()
        assert open_choice["model"] is None
        reply = await client.post(f"/chat/sessions/{session}/messages", json={"content": "Still there?"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "no_replica")

    play(tmp_path, scenario)


def test_without_a_model_the_largest_ready_one_answers_and_the_smallest_makes_the_title(tmp_path: Path) -> None:
    async def title(call: Call) -> AsyncGenerator[Piece, None]:
        yield Delta('"French cities"' if call.model == "small" else "Paris.")
        yield Done(finish_reason="stop")

    async def scenario(client: httpx.AsyncClient, cluster: FakeCluster) -> None:
        def model(name: str, parameters: int, **more: object) -> ModelSummary:
            return ModelSummary(name=ModelName(name), parameters=parameters, ready_on=(NODE,), **more)  # pyright: ignore[reportArgumentType]  # names checked by the dataclass

        models = (model("small", 1), model("large", 8), model("embedder", 99, embedding=True))
        unloaded = ModelSummary(name=ModelName("huge"), parameters=70)
        cluster.shown_state = replace(cluster.shown_state, models=(*models, unloaded))
        cluster.engine = title
        session = await made(client)
        nothing = await client.post(f"/chat/sessions/{session}/title")
        assert nothing.status_code == 400
        await said(client, session, "What is the capital of France?")
        named = (await client.post(f"/chat/sessions/{session}/title")).json()
        assert (named["title"], named["title_from"]) == ("French cities", "model")
        assert [call.model for call in cluster.calls] == ["large", "small"]

    play(tmp_path, scenario)


async def counting(call: Call) -> AsyncGenerator[Piece, None]:
    """Half a token for each byte."""
    yield Delta("Yes.")
    yield Done(finish_reason="stop", prompt_tokens=sum(len(text) for _, text in prompts_of(call)) // 2)


def test_a_council_answers_a_chat_and_every_member_is_remembered(tmp_path: Path) -> None:
    async def scenario(client: httpx.AsyncClient, cluster: FakeCluster) -> None:
        name = ModelName("council/all")
        summary = CouncilSummary(name=name, strategy=AggregateStrategy.VOTE, members="every PC")
        cluster.shown_state = replace(cluster.shown_state, councils=(summary,))
        started, *_, answered, lost, finished = council()
        assert isinstance(finished, AskFinished)
        cluster.ask_events = [started, answered, lost, AskDelta(b"\xc3"), AskDelta(b"\xa9!"), finished]
        session = await made(client, model="council/all")
        reply = await client.post(f"/chat/sessions/{session}/messages", json={"content": "Hi", "stream": True})
        events = events_of(reply.text)
        assert [kind for kind, _ in events] == ["message", "started", "member", "member", "delta", "finished"]
        (ask,) = cluster.asks
        assert (ask.council, ask.within_s) == ("council/all", 1800)
        message = cast("Json", events[-1][1]["message"])
        assert message["content"] == "é!"
        shown = cast("Json", cast("Json", message["answer"])["council"])
        assert (shown["strategy"], shown["disagreement"]) == ("longest", 0.0)
        members = cast("list[Json]", shown["members"])
        assert [member["node"] for member in members] == ["attic-pc", "cellar-pc"]
        assert members[1]["error"] == "the node went away"
        again = (await client.get(f"/chat/sessions/{session}")).json()["messages"][-1]
        assert again["answer"]["council"] == shown

    play(tmp_path, scenario)


def test_a_long_history_is_trimmed_to_the_models_context_and_says_so(tmp_path: Path) -> None:
    async def scenario(client: httpx.AsyncClient, cluster: FakeCluster) -> None:
        cluster.engine = counting
        session = await made(client, system="Be brief.")
        answer: Json = {}
        for number in range(8):
            answer = await said(client, session, f"{number} " + "word " * 150)
        facts = cast("Json", cast("Json", answer["message"])["answer"])
        trimmed = cast("dict[str, int]", facts["trimmed"])
        assert trimmed["context_tokens"] == 2048
        assert trimmed["dropped_messages"] + trimmed["kept_messages"] == 15
        sent = prompts_of(cluster.calls[-1])
        assert sent[0] == ("system", "Be brief.")
        assert sent[1][0] == "user"
        assert len(sent) == 1 + trimmed["kept_messages"] < 15
        markdown = (await client.get(f"/chat/sessions/{session}/export?format=markdown")).text
        assert "earlier messages did not fit" in markdown

    play(tmp_path, scenario)


def test_a_model_that_counts_more_tokens_than_expected_gets_less(tmp_path: Path) -> None:
    async def picky(call: Call) -> AsyncGenerator[Piece, None]:
        if len(prompts_of(call)) > 4:
            raise ContextLengthExceeded("too long", param="messages")
        yield Delta("Yes.")
        yield Done(finish_reason="stop")

    async def scenario(client: httpx.AsyncClient, cluster: FakeCluster) -> None:
        cluster.engine = picky
        session = await made(client)
        answer: Json = {}
        for number in range(6):
            answer = await said(client, session, f"{number} " + "word " * 60)
        facts = cast("Json", cast("Json", answer["message"])["answer"])
        assert cast("dict[str, int]", facts["trimmed"])["dropped_messages"] >= 7
        assert len(await texts(client, session)) == 12
        cluster.engine = failing(ContextLengthExceeded("too long", param="messages"))
        reply = await client.post(f"/chat/sessions/{session}/messages", json={"content": "x"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "context_length_exceeded")

    play(tmp_path, scenario)


def test_a_session_travels_as_json_with_its_branches_and_as_markdown_for_people(tmp_path: Path) -> None:
    async def scenario(client: httpx.AsyncClient, cluster: FakeCluster) -> None:
        session = await made(client, system="Be brief.", model=MODEL)
        first = await said(client, session, "What is the capital of France?")
        await said(client, session, "And of Spain?", edits=cast("Json", first["question"])["id"])
        exported = await client.get(f"/chat/sessions/{session}/export")
        assert exported.headers["content-disposition"] == 'attachment; filename="what-is-the-capital-of-france.json"'
        markdown = (await client.get(f"/chat/sessions/{session}/export?format=markdown")).text
        assert markdown.startswith("# What is the capital of France?\n")
        assert "## You\n\nAnd of Spain?\n\n## tiny:1b\n\nThe capital is Paris.\n" in markdown
        copied = await client.post("/chat/sessions/import", json=exported.json())
        assert copied.status_code == 201
        assert copied.json()["id"] != session
        both = [(await client.get(f"/chat/sessions/{one}?branches=1")).json() for one in (session, copied.json()["id"])]
        assert [one["system"] for one in both] == ["Be brief."] * 2
        contents = [[message["content"] for message in one["messages"]] for one in both]
        assert contents[0] == contents[1]
        assert [message["content"] for message in copied.json()["messages"]] == [
            "And of Spain?",
            "The capital is Paris.",
        ]
        found = (await client.get("/chat/search?q=spain")).json()["results"]
        assert {one["session_id"] for one in found} == {session, copied.json()["id"]}

    play(tmp_path, scenario)


def test_a_plain_list_of_messages_can_be_imported(tmp_path: Path) -> None:
    async def scenario(client: httpx.AsyncClient, cluster: FakeCluster) -> None:
        messages = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "Hi."},
        ]
        made = (await client.post("/chat/sessions/import", json={"messages": messages})).json()
        assert made["system"] == "Be brief."
        assert [message["content"] for message in made["messages"]] == ["Hello", "Hi."]
        await said(client, made["id"], "How are you?")
        assert len(prompts_of(cluster.calls[0])) == 4

    play(tmp_path, scenario)


@pytest.mark.parametrize(
    ("document", "param"),
    [
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": "a\0b"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "x", "id": "1", "parent_id": "1"}]}, "messages[0].parent_id"),
        (
            {"messages": [{"role": "user", "content": "x", "id": "1"}, {"role": "user", "content": "y", "id": "1"}]},
            "messages[1].id",
        ),
        ({"messages": [], "head": "7"}, "head"),
        ({"messages": [], "chorus_chat": 99}, "chorus_chat"),
        ({"messages": [], "title": "a\nb"}, "title"),
        ({"messages": [{"role": "assistant", "content": "x", "answer": {"model": 7}}]}, "messages[0].answer"),
    ],
)
def test_a_document_that_is_no_chat_is_refused_by_the_part_at_fault(tmp_path: Path, document: Json, param: str) -> None:
    async def scenario(client: httpx.AsyncClient, cluster: FakeCluster) -> None:
        reply = await client.post("/chat/sessions/import", json=document)
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)
        assert (await client.get("/chat/sessions")).json()["sessions"] == []

    play(tmp_path, scenario)


def test_a_long_chat_can_be_imported(tmp_path: Path) -> None:
    async def scenario(client: httpx.AsyncClient, cluster: FakeCluster) -> None:
        turns = [{"role": ("user", "assistant")[n % 2], "content": f"{n}"} for n in range(5000)]
        assert (await client.post("/chat/sessions/import", json={"messages": turns})).status_code == 201
        reply = await client.post("/chat/sessions/import", json={"messages": [*turns, turns[0]]})
        assert reply.status_code == 400

    play(tmp_path, scenario)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "param"),
    [
        ("POST", "", {"title": "a\0b"}, 400, "title"),
        ("POST", "", {"title": "a\r\nb"}, 400, "title"),
        ("POST", "", {"title": "x" * 201}, 400, "title"),
        ("POST", "", {"model": "a\0b"}, 400, "model"),
        ("POST", "", {"system": "a\0b"}, 400, "system"),
        ("POST", "", {"owner": "root"}, 400, "owner"),
        ("GET", "/nothing", None, 404, "id"),
        ("GET", "/%00", None, 404, "id"),
        ("GET", "?limit=-1", None, 400, "limit"),
        ("PUT", "/ID/title", {}, 400, "title"),
        ("PUT", "/ID/title", {"title": ""}, 400, "title"),
        ("PUT", "/ID/head", {"message_id": "nothing"}, 404, "message_id"),
        ("POST", "/ID/messages", {}, 400, "content"),
        ("POST", "/ID/messages", {"content": ""}, 400, "content"),
        ("POST", "/ID/messages", {"content": "a\0b"}, 400, "content"),
        ("POST", "/ID/messages", {"content": "x", "after": "nothing"}, 404, "message_id"),
        ("POST", "/ID/messages", {"content": "x", "after": "a", "edits": "b"}, 400, "edits"),
        ("POST", "/ID/messages", {"content": "x", "temperature": 9}, 400, "temperature"),
        ("POST", "/ID/messages", {"content": "x", "model": "nothing"}, 404, "model"),
        ("POST", "/ID/messages/nothing/regenerate", {}, 404, "message_id"),
        ("GET", "/ID/export?format=pdf", None, 400, "format"),
        ("PATCH", "/ID", {"title": None}, 400, "title"),
    ],
)
def test_what_cannot_be_is_refused_by_name_and_changes_nothing(
    tmp_path: Path, method: str, path: str, body: Json | None, status: int, param: str
) -> None:
    async def scenario(client: httpx.AsyncClient, cluster: FakeCluster) -> None:
        session = await made(client, title="Mine")
        reply = await client.request(method, f"/chat/sessions{path.replace('ID', session)}", json=body)
        assert reply.status_code == status, reply.text
        assert reply.json()["error"]["param"] == param
        (only,) = (await client.get("/chat/sessions")).json()["sessions"]
        assert (only["title"], only["revision"]) == ("Mine", 1)
        assert cluster.calls == []

    play(tmp_path, scenario)


def test_a_delta_tells_where_it_stands_as_browsers_count(tmp_path: Path) -> None:
    async def engine(call: Call) -> AsyncGenerator[Piece, None]:
        for text in ("a𝄞", "é", "c"):
            yield Delta(text)
        yield Done(finish_reason="stop", prompt_tokens=1, completion_tokens=3)

    async def scenario(client: httpx.AsyncClient, cluster: FakeCluster) -> None:
        cluster.engine = engine
        session = await made(client)
        reply = await client.post(f"/chat/sessions/{session}/messages", json={"content": "x", "stream": True})
        deltas = [
            msgspec.json.decode(part.partition("data: ")[2], type=dict[str, object])
            for part in reply.text.split("\n\n")
            if part.startswith("event: delta")
        ]
        assert [(one["at"], one["text"]) for one in deltas] == [(0, "a𝄞"), (3, "é"), (4, "c")]

    play(tmp_path, scenario)
