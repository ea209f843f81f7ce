"""Mirrors chorus_http/rag/ingests.py: what is held of documents, and for how long."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

import pytest

from chorus_http.rag.ingest import Submission
from chorus_http.rag.ingests import WAITING_BYTES_LIMIT, Ingests, IngestState, Item
from chorus_proto.errors import QueueFull
from tests.support.clock import FakeClock

if TYPE_CHECKING:
    from chorus_http.rag.ingest import Ingester
    from chorus_http.rag.parser_process import Parser


class Taking:
    """Takes documents in, when `gate` is open."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()

    async def ingest(self, *_words: object) -> object:
        await self.gate.wait()
        return object()

    @asynccontextmanager
    async def batch(self) -> AsyncGenerator[None]:
        yield None


def item(raw: bytes, held_bytes: int | None = None) -> Item:
    submission = Submission(raw=raw, name="a.txt")

    async def load() -> Submission:
        return submission

    return Item(name="a.txt", load=load, held_bytes=len(raw) if held_bytes is None else held_bytes)


def ingests(taking: Taking) -> Ingests:
    return Ingests(cast("Ingester", taking), cast("Parser", taking), FakeClock())


@pytest.mark.parametrize("cancelled", [False, True], ids=["done", "cancelled"])
def test_of_an_ingest_that_is_over_its_outcome_is_remembered_and_its_bytes_are_not(cancelled: bool) -> None:
    async def run() -> None:
        taking = Taking()
        all_ingests = ingests(taking)
        one = item(b"words")
        watched = weakref.ref(one.load)
        started = all_ingests.start("ann", "default", [one])
        await asyncio.sleep(0)
        gc.collect()
        assert watched() is not None
        if cancelled:
            await all_ingests.cancel(started)
        else:
            taking.gate.set()
            await all_ingests.wait(started)
        gc.collect()
        assert watched() is None
        assert all_ingests.get("ann", started.id).state is (IngestState.CANCELLED if cancelled else IngestState.DONE)
        await all_ingests.close()

    asyncio.run(run())


def test_documents_that_wait_are_bounded_in_memory_and_one_alone_always_comes_in() -> None:
    async def run() -> None:
        taking = Taking()
        all_ingests = ingests(taking)
        first = all_ingests.start("ann", "default", [item(b"words", WAITING_BYTES_LIMIT + 1)])
        with pytest.raises(QueueFull, match="1024 MiB of documents wait already"):
            all_ingests.start("ben", "default", [item(b"words")])
        taking.gate.set()
        await all_ingests.wait(first)
        await all_ingests.wait(all_ingests.start("ben", "default", [item(b"words")]))
        await all_ingests.close()

    asyncio.run(run())
