from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Generator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from chorus_proto.errors import ClusterError, CoordinatorUnavailable, Draining, InsufficientStorage, VersionMismatch
from chorus_proto.ids import ModelName, NodeId
from chorus_proto.sqlite import writer as writer_module
from chorus_proto.values import EngineKind, Gpu, Hardware
from chorus_server.store import Measurement, SavedNode, Store
from chorus_server.store.schema import MIGRATIONS

ATTIC = NodeId("attic")
HARDWARE = Hardware(os="Linux", arch="x86_64", ram_bytes=2**34, gpus=(Gpu(name="RTX 3060", memory_bytes=12 * 2**30),))
MEASURED = Measurement(
    node_id=ATTIC,
    model=ModelName("tiny"),
    engine=EngineKind.LLAMA_SERVER,
    decode_tokens_per_s=41.5,
    resident_bytes=2**33,
    samples=3,
    updated_unix_s=1_700_000_000.0,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "coordinator.sqlite"


@contextmanager
def opened(path: Path) -> Generator[Store]:
    store = Store.open(path, busy_s=0.2)
    try:
        yield store
    finally:
        store.close()


def with_store(path: Path, use: Callable[[Store], Awaitable[object]]) -> None:
    async def run(store: Store) -> None:
        await use(store)

    with opened(path) as store:
        asyncio.run(run(store))


async def save_attic(store: Store, *, seen_unix_s: float = 1.0, name: str = "attic-pc") -> None:
    await store.save_node(
        node_id=ATTIC, name=name, client_id="client-1", hardware=HARDWARE, score=85.0, seen_unix_s=seen_unix_s
    )


def test_everything_saved_is_there_after_opening_again(path: Path) -> None:
    async def save(store: Store) -> None:
        await save_attic(store, seen_unix_s=1.0, name="old name")
        await save_attic(store, seen_unix_s=2.0)
        await store.save_assignment(ATTIC, ModelName("tiny"), "fits")
        await store.save_assignment(NodeId("gone"), ModelName("tiny"), "fits")
        await store.save_assignment(NodeId("gone"), None, "left")
        await store.save_measurement(
            Measurement(node_id=ATTIC, model=ModelName("tiny"), engine=EngineKind.LLAMA_SERVER)
        )
        await store.save_measurement(MEASURED)

    async def check(store: Store) -> None:
        assert await store.nodes() == [
            SavedNode(
                node_id=ATTIC,
                name="attic-pc",
                client_id="client-1",
                hardware=HARDWARE,
                score=85.0,
                first_seen_unix_s=1.0,
                last_seen_unix_s=2.0,
            )
        ]
        assert await store.assignments() == {ATTIC: "tiny"}
        assert await store.measurements() == [MEASURED]

    with_store(path, save)
    with_store(path, check)


def test_the_epoch_grows_by_one_with_each_opening_even_after_a_crash(path: Path) -> None:
    with opened(path) as store:
        assert store.epoch == 1
    code = f"""
import os, pathlib
from chorus_server.store import Store
Store.open(pathlib.Path({str(path)!r}))
os._exit(1)
"""
    subprocess.run([sys.executable, "-c", code], timeout=60, check=False)
    with opened(path) as store:
        assert store.epoch == 3
        assert store.opened.note == ""
        assert store.opened.sqlite_version == sqlite3.sqlite_version


def test_what_was_acknowledged_survives_a_kill(path: Path) -> None:
    code = f"""
import asyncio, os, pathlib
from chorus_server.store import Store
async def main():
    store = Store.open(pathlib.Path({str(path)!r}))
    await asyncio.gather(*(store.save_assignment(f"n{{i}}", "tiny", "") for i in range(500)))
    os._exit(9)
asyncio.run(main())
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 9

    async def check(store: Store) -> None:
        assert len(await store.assignments()) == 500

    with_store(path, check)


def test_the_file_is_safe_and_private(path: Path) -> None:
    async def ask(store: Store) -> None:
        writer = store._writer  # pyright: ignore[reportPrivateUsage] - there is no other way to see a connection's settings
        for pragma, value in (
            ("journal_mode", "wal"),
            ("synchronous", 2),
            ("foreign_keys", 1),
            ("busy_timeout", 200),
            ("journal_size_limit", 64 * 2**20),
        ):
            assert (await writer.do(lambda c, p=pragma: c.execute(f"PRAGMA {p}").fetchone())) == (value,)

    with_store(path, ask)
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_many_writes_at_once_share_commits(path: Path) -> None:
    commits = 0

    def count(statement: str) -> None:
        nonlocal commits
        commits += statement == "COMMIT"

    async def save(store: Store) -> None:
        writer = store._writer  # pyright: ignore[reportPrivateUsage] - to watch the connection's statements
        await writer.do(lambda c: c.set_trace_callback(count))
        await asyncio.gather(*(store.save_assignment(NodeId(f"n{i}"), ModelName("m"), "") for i in range(500)))
        assert len(await store.assignments()) == 500

    with_store(path, save)
    assert 2 <= commits < 100


def test_one_failing_change_takes_nothing_else_with_it(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def broken(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO assignment VALUES ('half', 'm', '')")
        connection.execute("INSERT INTO nonsense VALUES (1)")

    async def save(store: Store) -> None:
        writer = store._writer  # pyright: ignore[reportPrivateUsage] - no public method can fail like this
        outcomes = await asyncio.gather(
            store.save_assignment(NodeId("before"), ModelName("m"), ""),
            writer.do(broken),
            store.save_assignment(NodeId("after"), ModelName("m"), ""),
            return_exceptions=True,
        )
        assert isinstance(outcomes[1], ClusterError)
        assert set(await store.assignments()) == {"before", "after"}

    with_store(path, save)
    assert "a bug in the store" in caplog.text


def test_a_lock_held_by_another_process_is_a_typed_refusal_and_passes(path: Path) -> None:
    async def save(store: Store) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(CoordinatorUnavailable, match=r"another process holds .* locked") as caught:
                await save_attic(store)
            assert caught.value.retry_after_s
            other.execute("ROLLBACK")
        await save_attic(store)
        assert len(await store.nodes()) == 1

    with_store(path, save)


def test_a_lock_held_while_opening_is_a_typed_refusal(path: Path) -> None:
    with opened(path):
        pass
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(CoordinatorUnavailable, match="another process"):
            Store.open(path, busy_s=0.1)


def test_a_full_disk_is_a_typed_refusal_reads_go_on_and_it_recovers_by_itself(path: Path) -> None:
    async def fill(store: Store) -> None:
        writer = store._writer  # pyright: ignore[reportPrivateUsage] - SQLite's page limit stands in for a full disk
        await store.save_assignment(ATTIC, ModelName("tiny"), "")
        await writer.do(lambda c: c.execute("PRAGMA max_page_count=1").fetchone())
        with pytest.raises(InsufficientStorage, match="is full: free some space"):
            await store.save_assignment(NodeId("big"), ModelName("tiny"), "x" * 1_000_000)
        assert await store.assignments() == {ATTIC: "tiny"}
        await writer.do(lambda c: c.execute("PRAGMA max_page_count=1000000").fetchone())
        await store.save_assignment(NodeId("big"), ModelName("tiny"), "x" * 1_000_000)
        assert len(await store.assignments()) == 2

    with_store(path, fill)


def damage(path: Path) -> None:
    async def save(store: Store) -> None:
        for number in range(300):
            await store.save_assignment(NodeId(f"n{number}"), ModelName("tiny"), "x" * 200)

    with_store(path, save)
    content = bytearray(path.read_bytes())
    content[4096 : len(content) - 4096] = os.urandom(len(content) - 8192)
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["pages overwritten", "not a database"])
def test_a_damaged_file_is_kept_aside_reported_and_replaced_with_a_higher_epoch(path: Path, how: str) -> None:
    if how == "pages overwritten":
        damage(path)
    else:
        path.write_bytes(b"not a database " * 1000)
    before = path.read_bytes()

    async def use(store: Store) -> None:
        assert "was damaged" in store.opened.note
        assert store.epoch > 1_000_000_000
        assert await store.assignments() == {}
        await save_attic(store)

    with_store(path, use)
    (aside,) = (one for one in path.parent.iterdir() if ".damaged-" in one.name)
    assert aside.read_bytes() == before
    with opened(path) as store:
        assert store.opened.note == ""


def test_a_file_of_a_newer_chorus_is_refused_and_left_alone(path: Path) -> None:
    with opened(path):
        pass
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA user_version=99")
    with pytest.raises(VersionMismatch, match=r"schema 99.*upgrade"):
        Store.open(path)
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_what_an_older_chorus_measured_is_taken_over(path: Path) -> None:
    with closing(sqlite3.connect(path)) as older:
        for statement in MIGRATIONS[0]:
            older.execute(statement)
        older.execute(
            "INSERT INTO measurement (node_id, model, engine, decode_tokens_per_s, resident_bytes, samples,"
            " updated_unix_s) VALUES ('attic', 'tiny', 'llama_server', 41.5, ?, 3, 1700000000.0)",
            (2**33,),
        )
        older.execute("PRAGMA user_version=1")
        older.commit()

    async def use(store: Store) -> None:
        assert await store.measurements() == [MEASURED]
        complete = replace(MEASURED, context_tokens=4096, slots=4, expected_bytes=5, arithmetic="needs 5")
        await store.save_measurement(complete)
        assert await store.measurements() == [complete]

    with_store(path, use)


def test_a_path_that_cannot_be_a_file_is_a_typed_refusal(tmp_path: Path) -> None:
    with pytest.raises(CoordinatorUnavailable, match="cannot be used"):
        Store.open(tmp_path)
    with pytest.raises(CoordinatorUnavailable, match="cannot be used"):
        Store.open(tmp_path / "missing" / "x.sqlite")


def test_saved_values_this_version_cannot_read_are_left_out(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def use(store: Store) -> None:
        await save_attic(store)
        await store.save_measurement(MEASURED)
        with closing(sqlite3.connect(path)) as other, other:
            other.execute("UPDATE node SET hardware = '[]'")
            other.execute("UPDATE measurement SET engine = 'quantum'")
        assert await store.nodes() == []
        assert await store.measurements() == []

    with_store(path, use)
    assert "forgot node attic" in caplog.text


def test_closing_writes_what_is_queued_and_refuses_what_comes_later(path: Path) -> None:
    async def use(store: Store) -> None:
        held = threading.Event()
        writer = store._writer  # pyright: ignore[reportPrivateUsage] - to hold the thread up
        holding = asyncio.create_task(writer.do(lambda _: held.wait(10)))
        saving = asyncio.create_task(save_attic(store))
        await asyncio.sleep(0)
        closing_ = asyncio.create_task(asyncio.to_thread(store.close))
        held.set()
        await asyncio.gather(holding, saving, closing_)
        with pytest.raises(Draining):
            await store.nodes()

    with_store(path, use)

    async def check(store: Store) -> None:
        assert len(await store.nodes()) == 1

    with_store(path, check)


def test_more_writes_than_the_queue_holds_are_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "QUEUE_LIMIT", 4)

    async def use(store: Store) -> None:
        held = threading.Event()
        writer = store._writer  # pyright: ignore[reportPrivateUsage] - to hold the thread up
        holding = asyncio.create_task(writer.do(lambda _: held.wait(10)))
        saves = [asyncio.create_task(store.save_assignment(ATTIC, None, "")) for _ in range(10)]
        done, _ = await asyncio.wait(saves, timeout=0.1)
        refused = [one.exception() for one in done]
        assert len(refused) >= 5
        assert {type(one).__name__ for one in refused} == {"QueueFull"}
        held.set()
        await asyncio.gather(holding, *(one for one in saves if one not in done))

    with_store(path, use)
