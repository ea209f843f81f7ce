"""Documents being taken in: a few at a time, each watched while it lasts and remembered for a while after."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NewType

from chorus_http.rag.ingest import Ingested, Ingester, Progress, Submission
from chorus_http.rag.parser_process import Parser
from chorus_proto.clock import Clock
from chorus_proto.errors import Cancelled, ClusterError, InternalError, NotFound, QueueFull

log = logging.getLogger(__name__)

IngestId = NewType("IngestId", str)
"""`ing_` and 16 hexadecimal digits."""

RUNNING_LIMIT = 2
WAITING_LIMIT = 64
WAITING_BYTES_LIMIT = 1 << 30
"""Of documents that were handed in and are not over, which lie in memory until then."""
REMEMBERED = 200
LOOK_EVERY_S = 0.25


class IngestState(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    """Each document has either come in or been refused."""
    CANCELLED = "cancelled"


@dataclass(slots=True, kw_only=True)
class Item:
    """One document of an ingest. `load` reads it when its turn comes; `name` is what its owner calls it.

    `held_bytes`: what it holds in memory until it is over.
    """

    name: str
    load: Callable[[], Awaitable[Submission]]
    held_bytes: int = 0
    progress: Progress = field(default_factory=Progress)
    result: Ingested | None = None
    error: ClusterError | None = None

    @property
    def over(self) -> bool:
        return self.result is not None or self.error is not None

    def let_go(self) -> None:
        """It is remembered for a while, its text is not."""
        self.load = _over
        self.held_bytes = 0


async def _over() -> Submission:
    raise AssertionError("a document is read once")


@dataclass(slots=True, kw_only=True)
class Ingest:
    id: IngestId
    owner: str
    collection: str
    items: Sequence[Item]
    started_unix_s: float
    state: IngestState = IngestState.WAITING
    ended_unix_s: float | None = None
    task: asyncio.Task[None] | None = None

    @property
    def progress(self) -> list[Progress]:
        return [item.progress for item in self.items]

    @property
    def documents_done(self) -> int:
        return sum(item.over for item in self.items)


class Ingests:
    """Owns the tasks. `close` ends them; what they had stored stays, and a repeated ingest goes on from there."""

    def __init__(self, ingester: Ingester, parser: Parser, clock: Clock) -> None:
        self._ingester = ingester
        self._parser = parser
        self._clock = clock
        self._turns = asyncio.Semaphore(RUNNING_LIMIT)
        self._known: OrderedDict[IngestId, Ingest] = OrderedDict()

    def start(
        self, owner: str, collection: str, items: Sequence[Item], *, after: Callable[[], Awaitable[None]] | None = None
    ) -> Ingest:
        """Begin as soon as there is room; `after` runs when all documents are over. Raises QueueFull."""
        if sum(each.state is IngestState.WAITING for each in self._known.values()) >= WAITING_LIMIT:
            raise QueueFull(f"{WAITING_LIMIT} uploads wait already; send this one later.", retry_after_s=30)
        held_bytes = sum(item.held_bytes for each in self._known.values() for item in each.items)
        if held_bytes and held_bytes + sum(item.held_bytes for item in items) > WAITING_BYTES_LIMIT:
            raise QueueFull(f"{held_bytes >> 20} MiB of documents wait already; send this one later.", retry_after_s=30)
        ingest = Ingest(
            id=IngestId(f"ing_{secrets.token_hex(8)}"),
            owner=owner,
            collection=collection,
            items=items,
            started_unix_s=self._clock.unix_s(),
        )
        self._known[ingest.id] = ingest
        over = [each.id for each in self._known.values() if each.ended_unix_s is not None]
        for old in over[: max(0, len(over) - REMEMBERED)]:
            del self._known[old]
        ingest.task = asyncio.create_task(self._run(ingest, after), name=f"ingest:{ingest.id}")
        return ingest

    def of(self, owner: str) -> list[Ingest]:
        """Newest first."""
        return [each for each in reversed(self._known.values()) if each.owner == owner]

    def get(self, owner: str, ingest_id: str) -> Ingest:
        """Raises NotFound."""
        found = self._known.get(IngestId(ingest_id))
        if found is None or found.owner != owner:
            raise NotFound("There is no such ingest; those that ended are forgotten after a while.")
        return found

    async def wait(self, ingest: Ingest) -> None:
        """Until it is over; leaving earlier does not end it."""
        if ingest.task is not None:
            await asyncio.wait([ingest.task])

    async def follow(self, ingest: Ingest, *, within_s: float) -> AsyncGenerator[Ingest, None]:
        """The ingest as it is, each time that it has come further, and at last when it is over or the time is up.

        Progress is counted where the work is done, without telling anybody: so it is looked at now and then, and only
        while somebody follows.
        """
        shown: object = None
        ends_s = self._clock.monotonic_s() + within_s
        while ingest.ended_unix_s is None and self._clock.monotonic_s() < ends_s:
            now = (ingest.state, ingest.documents_done, [(p.chunks, p.embedded) for p in ingest.progress])
            if now != shown:
                shown = now
                yield ingest
            if ingest.task is not None:
                await asyncio.wait([ingest.task], timeout=LOOK_EVERY_S)
        yield ingest

    async def cancel(self, ingest: Ingest) -> None:
        """What is in the collection already stays there."""
        if ingest.task is not None and not ingest.task.done():
            ingest.task.cancel()
            await asyncio.wait([ingest.task])

    async def close(self) -> None:
        running = [each.task for each in self._known.values() if each.task is not None and not each.task.done()]
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)

    async def _run(self, ingest: Ingest, after: Callable[[], Awaitable[None]] | None) -> None:
        try:
            async with self._turns, self._parser.batch() as batch:
                ingest.state = IngestState.RUNNING
                for item in ingest.items:
                    try:
                        item.result = await self._ingester.ingest(
                            ingest.owner, ingest.collection, await item.load(), batch, item.progress
                        )
                    except ClusterError as error:
                        log.info("ingest %s: a document was refused: %s", ingest.id, error.code)
                        item.error = error
                    except Exception as error:  # a supervisor: a bug ends this document alone
                        log.error("bug in ingest %s", ingest.id, exc_info=error)
                        item.error = InternalError(f"Internal error. The log has the details under {ingest.id}.")
                    item.let_go()
                if after is not None:
                    await after()
            ingest.state = IngestState.DONE
        finally:
            if ingest.state is not IngestState.DONE:
                ingest.state = IngestState.CANCELLED
                for item in ingest.items:
                    if not item.over:
                        item.error = Cancelled("The ingest was cancelled.")
            for item in ingest.items:
                item.let_go()
            ingest.task = None  # of a cancelled one, the traceback holds the document
            ingest.ended_unix_s = self._clock.unix_s()
