"""What this PC fetches and sends: one task for each order, its progress told, its end certain.

A fetch that breaks off keeps its part; the next order for the same file goes on from there, from the internet or from
another node.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, aclosing
from functools import partial
from pathlib import Path
from typing import Protocol

from chorus_client.folder_archive import Digests, FolderArchive
from chorus_client.orders import FetchOrder, SendOrder
from chorus_client.transfer.copying import Incoming, Readable, chunks_of, kept_pieces, receive
from chorus_client.transfer.http_download import DownloadLimits, download, kept_bytes
from chorus_client.transfer.model_store import ModelStore
from chorus_client.transfer.pace import Pace
from chorus_client.transfer.part_file import PartFile
from chorus_client.transfer.registry import find_blob
from chorus_client.transfer.unpacking import Unpacking
from chorus_proto.clock import Clock
from chorus_proto.errors import (
    Cancelled,
    ClusterError,
    InsufficientStorage,
    InternalError,
    InvalidRequest,
    LoadFailed,
    ModelDamaged,
    QueueFull,
    TransferFailed,
)
from chorus_proto.ids import ModelName
from chorus_proto.model_source import RegistryName, parse_source, shown_source
from chorus_proto.transfers import Chunk, FetchReport, TransferState, bare_digest

log = logging.getLogger(__name__)

AT_ONCE = 8
"""Fetches and sends of one agent; the coordinator gives fewer."""
_REMOVALS, _REMOVAL_PAUSE_S = 60, 1.0
_OPENINGS = 4
"""Tries in a row to open the stream of a copy, without a byte in between."""


class Calls(Protocol):
    """How bytes reach other nodes; `calls.TransferCalls`."""

    def incoming(self, ticket: str, offset: int) -> AbstractAsyncContextManager[Incoming]: ...

    async def send(self, ticket: str, chunks: AsyncIterator[Chunk]) -> None: ...


class Held(Protocol):
    """The model files that this PC has; `inventory.Inventory`."""

    def path_of_digest(self, sha256: str) -> tuple[Path, int] | None:
        """Where a file with this SHA-256 lies, and its size."""
        ...


class HeldFolders(Protocol):
    """The model folders that this PC has; `hf_folders.HfFolders`."""

    def archive_of_digest(self, sha256: str) -> FolderArchive | None:
        """The archive with this SHA-256."""
        ...


class Fetches:
    """`tell` hears how each fetch goes; `arrived(path, sha256)` is awaited when a model has come as one file,
    `unpacked(path, digests)` when it has come as a folder, `removed()` when one was deleted."""

    def __init__(
        self,
        store: ModelStore,
        held: Held,
        held_folders: HeldFolders,
        calls: Calls,
        clock: Clock,
        *,
        registry_url: str,
        limits: DownloadLimits,
        tell: Callable[[FetchReport], None],
        arrived: Callable[[Path, str], Coroutine[None, None, None]],
        unpacked: Callable[[Path, Digests], Coroutine[None, None, None]],
        removed: Callable[[], Coroutine[None, None, None]],
    ) -> None:
        self._store = store
        self._held = held
        self._held_folders = held_folders
        self._calls = calls
        self._clock = clock
        self._registry_url = registry_url
        self._limits = limits
        self._tell = tell
        self._arrived = arrived
        self._unpacked = unpacked
        self._removed = removed
        self._fetches: dict[str, asyncio.Task[None]] = {}
        self._sends: dict[str, asyncio.Task[None]] = {}
        self._removals: dict[str, asyncio.Task[None]] = {}
        self._closing = False

    def fetch(self, order: FetchOrder) -> None:
        """Start, unless it runs already: an order comes again after a lost link."""
        if order.transfer_id in self._fetches:
            return
        if len(self._fetches) >= AT_ONCE:
            self._tell(_failed(order, QueueFull(f"{AT_ONCE} models are on their way to this PC", retry_after_s=60)))
            return
        self._begin(self._fetches, order.transfer_id, self._fetch(order))

    def send(self, order: SendOrder) -> None:
        """Start sending; who asked sees the end on the stream. A second order for a transfer replaces the first."""
        running = self._sends.pop(order.transfer_id, None)
        if running is not None:
            running.cancel()
        if len(self._sends) < AT_ONCE:
            self._begin(self._sends, order.transfer_id, self._send(order))

    def cancel(self, transfer_id: str) -> None:
        for tasks in (self._fetches, self._sends):
            task = tasks.get(transfer_id)
            if task is not None:
                task.cancel()

    def remove(self, model: ModelName) -> None:
        """Delete a model that came over the network."""
        if model not in self._removals:
            self._begin(self._removals, model, self._remove(model))

    async def _remove(self, model: ModelName) -> None:
        for attempt in range(_REMOVALS):
            try:
                if await asyncio.to_thread(self._store.remove, model):
                    log.info("model %s was deleted", model)
                    await self._removed()
                return
            except OSError as error:
                # Windows deletes no file that an engine still has open; it is on its way out.
                if attempt == _REMOVALS - 1:
                    log.warning("model %s cannot be deleted: %s", model, error)
                await asyncio.sleep(_REMOVAL_PAUSE_S)

    @staticmethod
    def _begin(tasks: dict[str, asyncio.Task[None]], transfer_id: str, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work, name=f"transfer:{transfer_id}")
        tasks[transfer_id] = task
        task.add_done_callback(partial(_forget, tasks, transfer_id))

    async def aclose(self) -> None:
        """Break off everything; parts stay for the next start, when the coordinator orders again what it wants."""
        self._closing = True
        tasks = [*self._fetches.values(), *self._sends.values(), *self._removals.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # Fetching -----------------------------------------------------------------------------------------------------

    async def _fetch(self, order: FetchOrder) -> None:
        try:
            await self._fetched(order)
        except asyncio.CancelledError:
            if not self._closing:
                self._tell(
                    FetchReport(
                        transfer_id=order.transfer_id,
                        state=TransferState.CANCELLED,
                        error=Cancelled("the fetch was cancelled; what has come is kept"),
                    )
                )
            raise
        except ClusterError as error:
            log.warning("fetching %s: %s", _what(order), error.message)
            self._tell(_failed(order, error))
        except Exception:
            # The edge of one fetch: a bug in it must end it with a word, and nothing else.
            log.exception("fetching %s broke", _what(order))
            self._tell(_failed(order, InternalError("internal error on the node")))

    async def _fetched(self, order: FetchOrder) -> None:
        if order.source:
            await self._pull(order)
            return
        digest, total_bytes = bare_digest(order.digest), order.file_bytes
        if not digest or not order.model or not 0 < total_bytes <= self._limits.most_bytes:
            raise InvalidRequest("a copy needs a name, a digest and a size within download_limit_bytes")
        self._say(order, detail=f"waits for a node that sends {order.model}")
        part = self._store.part(digest)
        with part.reserved():
            await part.open(keep_bytes=lambda size, _note: kept_pieces(size, total_bytes))
            # A folder lies there twice for a moment: as it came, and unpacked.
            self._store.require_room(total_bytes - part.size_bytes + (total_bytes if order.folder else 0))
            await self._guarded(part, self._copied(order, part, digest, total_bytes))
            take = self._take_folder if order.folder else self._take
            await take(order, part, order.model, digest, source="copied")

    async def _copied(self, order: FetchOrder, part: PartFile, digest: str, total_bytes: int) -> None:
        """Open the stream as often as it breaks, while something comes."""
        tries, pace = 0, self._pace(order, f"copying {order.model}")
        while True:
            before = part.size_bytes
            try:
                async with self._calls.incoming(order.ticket, part.size_bytes) as incoming:
                    await receive(incoming, part, pace, sha256=digest, total_bytes=total_bytes)
                    return
            except TransferFailed as error:
                tries = 1 if part.size_bytes > before else tries + 1
                if tries >= _OPENINGS:
                    raise
                log.info("copying %s: %s; trying again", order.model, error.message)
            await asyncio.sleep(0.25 * 2**tries)

    async def _pull(self, order: FetchOrder) -> None:
        source = parse_source(order.source)
        digest, total_bytes, name = bare_digest(order.digest), None, order.model or source.name
        if isinstance(source, RegistryName):
            self._say(order, detail=f"asking the registry for {name}")
            blob = await find_blob(source, self._registry_url, self._limits)
            if digest and digest != blob.sha256:
                raise TransferFailed(f"the registry's {name} has sha256 {blob.sha256}, not {digest}")
            url, digest, total_bytes = blob.url, blob.sha256, blob.size_bytes
            if total_bytes > self._limits.most_bytes:
                raise TransferFailed(f"{name} has {total_bytes / 1e9:.1f} GB, over the limit of download_limit_bytes")
        else:
            url = source.url
        part = self._store.part(digest or url)
        with part.reserved():
            await part.open(keep_bytes=kept_bytes(url, digest))
            was_begun = part.size_bytes > 0
            await self._guarded(part, self._pulled(order, part, url, digest, total_bytes))
            if digest and part.sha256 != digest and was_begun:
                # What an earlier run left may be wrong (a power cut, another file): once more from the start.
                log.warning("%s came with a wrong sha256 after a resume; fetching it anew", name)
                await part.restart()
                await self._guarded(part, self._pulled(order, part, url, digest, total_bytes))
            await self._take(order, part, name, digest or part.sha256, source=shown_source(order.source))

    async def _pulled(self, order: FetchOrder, part: PartFile, url: str, digest: str, total_bytes: int | None) -> None:
        pace = self._pace(order, "downloading")
        await download(
            url, part, pace, self._limits, sha256=digest, total_bytes=total_bytes, room=self._store.require_room
        )

    @staticmethod
    async def _guarded(part: PartFile, work: Coroutine[None, None, None]) -> None:
        """Whatever ends the work early leaves the part on the disk, unless the disk is what ended it."""
        try:
            await work
        except InsufficientStorage:
            part.delete()
            raise
        except BaseException:
            await part.keep()
            raise

    async def _take(self, order: FetchOrder, part: PartFile, name: ModelName, digest: str, *, source: str) -> None:
        """Only the right file, only a model, and only then under its name."""
        size_bytes = await self._finished(part, name, digest)
        try:
            path = await asyncio.to_thread(self._store.take, part, name, digest, source)
        except LoadFailed as error:
            raise _unusable(part, name, error) from None
        await self._arrived(path, digest)
        self._tell_done(order, name, digest, size_bytes)

    async def _take_folder(
        self, order: FetchOrder, part: PartFile, name: ModelName, digest: str, *, source: str
    ) -> None:
        """As `_take`, of a folder's archive."""
        size_bytes = await self._finished(part, name, digest)

        def tell() -> None:
            self._say(order, done_bytes=size_bytes, total_bytes=size_bytes, detail=f"unpacking {name}")

        tell()
        with self._store.unpacking(part) as folder:
            try:
                digests = await Unpacking(part.path, folder, digest).run(tell)
            except LoadFailed as error:
                raise _unusable(part, name, error) from None
            path = await asyncio.to_thread(self._store.take_folder, folder, part, name, digest, source)
        await self._unpacked(path, digests)
        self._tell_done(order, name, digest, size_bytes)

    @staticmethod
    async def _finished(part: PartFile, name: ModelName, digest: str) -> int:
        """The length of the part, which is whole and right and on the disk."""
        found = part.sha256
        if found != digest:
            part.delete()
            raise ModelDamaged(f"what came for {name} has sha256 {found} instead of {digest}; it was thrown away")
        size_bytes = part.size_bytes
        await part.finish()
        return size_bytes

    def _tell_done(self, order: FetchOrder, name: ModelName, digest: str, size_bytes: int) -> None:
        log.info("model %s arrived: %d bytes, sha256 %s", name, size_bytes, digest)
        self._tell(
            FetchReport(
                transfer_id=order.transfer_id,
                state=TransferState.DONE,
                done_bytes=size_bytes,
                total_bytes=size_bytes,
                model=name,
                digest=digest,
            )
        )

    def _pace(self, order: FetchOrder, detail: str) -> Pace:
        def tell(done_bytes: int, total_bytes: int | None, bytes_per_s: float) -> None:
            self._say(order, done_bytes=done_bytes, total_bytes=total_bytes, bytes_per_s=bytes_per_s, detail=detail)

        return Pace(self._clock, tell)

    def _say(
        self,
        order: FetchOrder,
        *,
        detail: str,
        done_bytes: int = 0,
        total_bytes: int | None = None,
        bytes_per_s: float = 0.0,
    ) -> None:
        self._tell(
            FetchReport(
                transfer_id=order.transfer_id,
                state=TransferState.RUNNING,
                done_bytes=done_bytes,
                total_bytes=total_bytes or order.file_bytes or None,
                bytes_per_s=bytes_per_s,
                detail=detail,
                model=order.model,
            )
        )

    # Sending ------------------------------------------------------------------------------------------------------

    async def _send(self, order: SendOrder) -> None:
        try:
            async with aclosing(self._chunks(order)) as chunks:
                await self._calls.send(order.ticket, chunks)
            log.info("sent %s from byte %d", order.model, order.offset)
        except ClusterError as error:
            log.warning("sending %s: %s", order.model, error.message)
        except Exception:
            # The edge of one send: the coordinator sees the stream end and asks another node.
            log.exception("sending %s broke", order.model)

    async def _chunks(self, order: SendOrder) -> AsyncGenerator[Chunk, None]:
        opened, total_bytes = self._source(order)
        async with aclosing(chunks_of(opened, order.offset, total_bytes)) as chunks:
            async for chunk in chunks:
                yield chunk

    def _source(self, order: SendOrder) -> tuple[Callable[[], Readable], int]:
        """What opens it, and its length. Raises ModelDamaged."""
        digest = bare_digest(order.digest)
        held = self._held.path_of_digest(digest)
        if held is not None:
            return partial(held[0].open, "rb"), held[1]
        archive = self._held_folders.archive_of_digest(digest)
        if archive is None:
            raise ModelDamaged(f"no file here has the sha256 of {order.model} any more")
        return archive.open, archive.total_bytes


def _unusable(part: PartFile, name: ModelName, error: LoadFailed) -> TransferFailed:
    """It came whole, and is of no use to anybody."""
    part.delete()
    return TransferFailed(f"what came for {name} is no model that can be loaded: {error.message}")


def _what(order: FetchOrder) -> str:
    return shown_source(order.source) or order.model or "a model"


def _failed(order: FetchOrder, error: ClusterError) -> FetchReport:
    return FetchReport(transfer_id=order.transfer_id, state=TransferState.FAILED, error=error, model=order.model)


def _forget(tasks: dict[str, asyncio.Task[None]], transfer_id: str, task: asyncio.Task[None]) -> None:
    if tasks.get(transfer_id) is task:
        del tasks[transfer_id]
