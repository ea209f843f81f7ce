"""Kept responses on disk: whose they are, how long they stay, and what a restart leaves of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import msgspec
import openai
import pytest

from chorus_http.response_store import ResponseStore
from chorus_http.stored_responses import StoredResponse
from chorus_proto.clock import SystemClock
from chorus_proto.errors import NodeLost
from chorus_proto.generation import Generation, Message
from tests.support.clock import FakeClock
from tests.support.fake_cluster import MODEL, FakeCluster, failing, waiting
from tests.support.http_face import http_face, until

DAY_S = 86_400.0
BODY = b'{"id":"resp_1","status":"in_progress","error":null,"output":[]}'


def stored(name: str, *, user: str = "ann", size_bytes: int = 0, background: bool = False) -> StoredResponse:
    turn = Message(role="user", content="x" * max(0, size_bytes - len(BODY)))
    return StoredResponse(response_id=name, user=user, background=background, turns=(turn,), body=BODY)


def with_store(
    folder: Path, use: Callable[[ResponseStore, FakeClock], Awaitable[None]], *, most_bytes: int = 1 << 20
) -> None:
    clock = FakeClock()
    path = folder / "responses.sqlite"
    with closing(ResponseStore.open(path, clock, most_bytes=most_bytes, most_age_s=DAY_S)) as store:
        asyncio.run(use(store, clock))  # pyright: ignore[reportArgumentType]  # an async function's call is a coroutine


def test_a_response_is_found_by_its_user_alone_and_can_be_deleted(tmp_path: Path) -> None:
    async def use(store: ResponseStore, _clock: FakeClock) -> None:
        await store.save(stored("a"), over=True)
        assert await store.find("a", "ann") == stored("a")
        assert await store.find("a", "bob") is None
        assert await store.delete("a", "bob") is False
        assert await store.delete("a", "ann") is True
        assert await store.find("a", "ann") is None

    with_store(tmp_path, use)


def test_the_oldest_leave_when_there_are_too_many_bytes_and_the_newest_never(tmp_path: Path) -> None:
    async def use(store: ResponseStore, _clock: FakeClock) -> None:
        for name in "abc":
            await store.save(stored(name, size_bytes=400), over=True)
        assert [name for name in "abc" if await store.find(name, "ann")] == ["b", "c"]
        await store.save(stored("whale", size_bytes=5_000), over=True)
        assert [name for name in ("b", "c", "whale") if await store.find(name, "ann")] == ["whale"]

    with_store(tmp_path, use, most_bytes=1_000)


def test_a_response_is_kept_for_its_time_since_it_was_asked_for(tmp_path: Path) -> None:
    async def use(store: ResponseStore, clock: FakeClock) -> None:
        await store.save(stored("a", background=True), over=False)
        clock.advance(DAY_S - 1)
        await store.save(stored("a", background=True), over=True)
        assert await store.find("a", "ann")
        clock.advance(2)
        assert await store.find("a", "ann") is None

    with_store(tmp_path, use)


def test_one_that_was_being_made_when_the_process_ended_has_failed(tmp_path: Path) -> None:
    async def begin(store: ResponseStore, _clock: FakeClock) -> None:
        await store.save(stored("a", background=True), over=False)

    async def look(store: ResponseStore, _clock: FakeClock) -> None:
        found = await store.find("a", "ann")
        assert found is not None
        body = msgspec.json.decode(found.body, type=dict[str, object])
        assert (body["status"], body["id"]) == ("failed", "resp_1")
        assert "stopped" in str(body["error"])

    with_store(tmp_path, begin)
    with_store(tmp_path, look)


class Restarts:
    """One server after another on one file."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "responses.sqlite"

    def run(self, cluster: FakeCluster, use: Callable[[openai.AsyncOpenAI], Awaitable[None]]) -> None:
        async def run() -> None:
            store = ResponseStore.open(self._path, SystemClock(), most_bytes=1 << 20, most_age_s=DAY_S)
            with closing(store):
                async with (
                    http_face(cluster, responses=store) as server,
                    openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
                ):
                    await use(client)

        asyncio.run(run())


@pytest.mark.parametrize("stream", [False, True])
def test_openais_client_goes_on_from_a_response_after_a_restart(tmp_path: Path, stream: bool) -> None:
    ids: list[str] = []
    restarts = Restarts(tmp_path)

    async def begin(client: openai.AsyncOpenAI) -> None:
        if stream:
            async with client.responses.stream(model=MODEL, input="Capital of France?") as events:
                ids.append((await events.get_final_response()).id)
        else:
            ids.append((await client.responses.create(model=MODEL, input="Capital of France?")).id)

    async def go_on(client: openai.AsyncOpenAI) -> None:
        assert (await client.responses.retrieve(ids[0])).output_text == "The capital is Paris."
        await client.responses.create(model=MODEL, input="And of Italy?", previous_response_id=ids[0])
        await client.responses.delete(ids[0])
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(ids[0])

    restarts.run(FakeCluster(), begin)
    later = FakeCluster()
    restarts.run(later, go_on)
    turns = [turn.content for turn in Generation.decoded(later.calls[0].generation).messages or ()]
    assert turns == ["Capital of France?", "The capital is Paris.", "And of Italy?"]


def test_background_responses_that_ended_broke_or_were_cut_off_are_told_of_after_a_restart(tmp_path: Path) -> None:
    restarts = Restarts(tmp_path)
    ids: list[str] = []

    async def ends(client: openai.AsyncOpenAI) -> None:
        begun = await client.responses.create(model=MODEL, input="Hi", background=True)
        ids.append(begun.id)

        async def over() -> bool:
            return (await client.responses.retrieve(begun.id)).status != "in_progress"

        async with asyncio.timeout(10):
            while not await over():
                await asyncio.sleep(0.01)

    async def is_cut_off(client: openai.AsyncOpenAI) -> None:
        ids.append((await client.responses.create(model=MODEL, input="Hi", background=True)).id)
        await until(lambda: len(stuck.calls) == 1)

    stuck = FakeCluster(waiting(asyncio.Event()))
    restarts.run(FakeCluster(), ends)
    restarts.run(FakeCluster(failing(NodeLost("the node went away"))), ends)
    restarts.run(stuck, is_cut_off)

    async def look(client: openai.AsyncOpenAI) -> None:
        found = [await client.responses.retrieve(one) for one in ids]
        assert [one.status for one in found] == ["completed", "failed", "failed"]
        assert next(one.error.message for one in found if one.error is not None) == "the node went away"
        kinds = [event.type async for event in await client.responses.retrieve(ids[0], stream=True)]
        assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
        with pytest.raises(openai.BadRequestError, match="is failed"):
            await client.responses.create(model=MODEL, input="And?", previous_response_id=ids[2])

    restarts.run(FakeCluster(), look)
