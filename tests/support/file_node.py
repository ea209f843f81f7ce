"""A real agent in the test's process that has model files: it fetches and sends them over real gRPC.

Its engine loads nothing, it only looks at the file. `Sabotage` makes it a bad sender.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from chorus_client.agent import Agent, Identity
from chorus_client.engines.base import Engine, LoadedModel, LoadOptions, Report
from chorus_client.folder_archive import Digests
from chorus_client.hardware import LiveReader
from chorus_client.hf_folders import HfFolders
from chorus_client.integrity import Integrity
from chorus_client.inventory import Inventory, bundled_folder
from chorus_client.link import CoordinatorLink
from chorus_client.pool import Pool
from chorus_client.transfer.calls import TransferCalls
from chorus_client.transfer.checked_resolver import own_hosts
from chorus_client.transfer.copying import Incoming
from chorus_client.transfer.fetches import Fetches
from chorus_client.transfer.http_download import DownloadLimits
from chorus_client.transfer.model_store import ModelStore, free_bytes
from chorus_proto.clock import SystemClock
from chorus_proto.errors import LoadFailed, ModelNotFound
from chorus_proto.ids import NodeId, new_instance_id, new_node_id
from chorus_proto.transfers import PIECE_BYTES, Chunk, FetchReport
from chorus_proto.values import EngineKind, Hardware, ModelFile
from tests.support.fake_engine import FakeEngine
from tests.support.fake_node import STRONG
from tests.support.open_gate import open_gate

LIMITS = DownloadLimits(connect_s=2, stall_s=2, tries=3)


@dataclass(slots=True)
class Sabotage:
    """What a sender does wrong once it comes to byte `at`. `lie`: wrong bytes under their own right digest."""

    at: int = 0
    corrupt: bool = False
    lie: bool = False
    stall: bool = False
    die: bool = False
    done: int = 0
    """How often it happened."""
    times: int | None = None
    """At most so often, None: each time."""
    when: Callable[[], Awaitable[None]] | None = None
    """Awaited right before it happens."""

    def concerns(self, chunk: Chunk) -> bool:
        return chunk.offset <= self.at < chunk.end and (self.times is None or self.done < self.times)


class WatchedCalls:
    """`Calls` that counts what is sent and spoils it where it was told to."""

    def __init__(self, address: str) -> None:
        self._calls = TransferCalls(address, write_within_s=5)
        self.sabotage: Sabotage | None = None
        self.sent_bytes = 0
        self.first_offsets: list[int] = []
        self.hold_at: int | None = None
        """Nothing from this byte on is sent while it is set."""

    def incoming(self, ticket: str, offset: int) -> AbstractAsyncContextManager[Incoming]:
        return self._calls.incoming(ticket, offset)

    async def send(self, ticket: str, chunks: AsyncIterator[Chunk]) -> None:
        await self._calls.send(ticket, self._spoilt(chunks))

    async def _spoilt(self, chunks: AsyncIterator[Chunk]) -> AsyncGenerator[Chunk, None]:
        plan, piece, first = self.sabotage, bytearray(), True
        async for chunk in chunks:
            if first:
                self.first_offsets.append(chunk.offset)
                first = False
            if chunk.offset % PIECE_BYTES == 0:
                piece.clear()
            if plan is not None and plan.concerns(chunk):
                plan.done += 1
                if plan.when is not None:
                    await plan.when()
                if plan.stall:
                    await asyncio.Event().wait()
                if plan.die:
                    raise asyncio.CancelledError
                if plan.corrupt or plan.lie:
                    chunk = replace(chunk, content=bytes([chunk.content[0] ^ 1]) + chunk.content[1:])
            piece += chunk.content
            if plan is not None and plan.lie and chunk.piece_sha256:
                chunk = replace(chunk, piece_sha256=hashlib.sha256(piece).digest())
            self.sent_bytes += len(chunk.content)
            while self.hold_at is not None and chunk.end > self.hold_at:
                await asyncio.sleep(0.01)
            yield chunk


class FileEngine(FakeEngine):
    """Offers what the inventory found, without the bundled models; a load checks the file as llama.cpp's does."""

    def __init__(self, inventory: Inventory) -> None:
        super().__init__()
        self._files = inventory

    @property
    def kind(self) -> EngineKind:
        return EngineKind.LLAMA_SERVER

    async def inventory(self) -> list[ModelFile]:
        bundled = bundled_folder()
        return [file for file in self._files.files() if self._files.path_of(file.name).parent != bundled]

    async def load(self, model: ModelFile, options: LoadOptions, report: Report) -> LoadedModel:
        try:
            await self._files.checked(model.name, report)
        except ModelNotFound as error:
            raise LoadFailed(error.message) from None
        return await super().load(model, options, report)


class FolderEngine(FakeEngine):
    """Offers the model folders that were found."""

    def __init__(self, folders: HfFolders) -> None:
        super().__init__()
        self._folders = folders

    @property
    def kind(self) -> EngineKind:
        return EngineKind.TRANSFORMERS

    async def inventory(self) -> list[ModelFile]:
        return self._folders.files()


class FileNode:
    """`async with file_node(address, "attic", folder) as node`. Its models folder and its store lie under `folder`."""

    def __init__(
        self,
        address: str,
        name: str,
        folder: Path,
        *,
        hardware: Hardware,
        registry_url: str,
        takes_folders: bool,
    ) -> None:
        clock = SystemClock()
        self.name = name
        self.folder = folder
        self.free_bytes: int | None = None
        self.store = ModelStore(folder / "store", spare_bytes=0, free=self._free)
        self.integrity = Integrity(folder / "state")
        self.inventory = Inventory([folder / "own"], folder / "state", integrity=self.integrity, stores=[self.store])
        self.folders = HfFolders([folder / "own"], folder / "state", store=self.store)
        self.engine = FileEngine(self.inventory)
        self._engines: dict[EngineKind, Engine] = {EngineKind.LLAMA_SERVER: self.engine}
        if takes_folders:
            self._engines[EngineKind.TRANSFORMERS] = FolderEngine(self.folders)
        self.calls = WatchedCalls(address)
        self.reports: list[FetchReport] = []
        identity = Identity(node_id=new_node_id(), instance_id=new_instance_id(), name=name)
        self.node_id: NodeId = identity.node_id
        self.pool = Pool(self._engines, clock, self._replica, open_gate())
        self.fetches = Fetches(
            self.store,
            self.inventory,
            self.folders,
            self.calls,
            clock,
            registry_url=registry_url,
            limits=replace(LIMITS, hosts=own_hosts(registry_url)),
            tell=self._fetched,
            arrived=self._arrived,
            unpacked=self._unpacked,
            removed=self._removed,
        )
        self.agent = Agent(
            identity,
            hardware,
            self.pool,
            clock,
            readings=LiveReader(hardware),
            fenced=lambda: self.link.fenced,
            fetcher=self.fetches,
        )
        self.link = CoordinatorLink(
            address, self.agent, clock, connect_within_s=2, reconnect_max_s=0.2, fence_after_s=30
        )
        self._linking: asyncio.Task[None] | None = None

    def _free(self, folder: Path) -> int:
        return free_bytes(folder) if self.free_bytes is None else self.free_bytes

    async def _removed(self) -> None:
        await self.inventory.refresh()
        await self.folders.refresh()
        await self.agent.inventory_changed()

    def _replica(self, report: object) -> None:
        self.agent.replica_changed(report)  # pyright: ignore[reportArgumentType]  # the pool's reports

    def _fetched(self, report: FetchReport) -> None:
        self.reports.append(report)
        self.agent.fetch_changed(report)

    async def _arrived(self, path: Path, sha256: str) -> None:
        await self.integrity.witnessed(path, sha256)
        await self._removed()

    async def _unpacked(self, path: Path, digests: Digests) -> None:
        await self.folders.witnessed(path, digests)
        await self._removed()

    def put(self, name: str, content: bytes) -> Path:
        """A model file of the owner's."""
        path = self.folder / "own" / f"{name}.gguf"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def parts(self) -> list[Path]:
        """Unfinished files, hidden ones too."""
        return [path for path in self.store.folder.glob(".*.part") if path.is_file()]

    def models(self) -> list[Path]:
        """What anybody who looks into the store's folder sees."""
        return sorted(self.store.folder.glob("*.gguf"))

    async def start(self) -> None:
        await self.inventory.refresh()
        await self.inventory.digest()
        await self.folders.refresh()
        await self.folders.digest()
        await self.agent.prepare(tuple(self._engines))
        self._linking = asyncio.create_task(self.link.run())

    async def cut(self) -> None:
        """Its link breaks, and what it sends; as when its process dies."""
        await self.fetches.aclose()
        if self._linking is not None:
            self._linking.cancel()
            await asyncio.gather(self._linking, return_exceptions=True)
            self._linking = None

    def relink(self) -> None:
        self._linking = asyncio.create_task(self.link.run())

    async def aclose(self) -> None:
        await self.cut()
        await self.agent.aclose()
        await self.pool.aclose()


@asynccontextmanager
async def file_node(
    address: str,
    name: str,
    folder: Path,
    *,
    models: dict[str, bytes] | None = None,
    hardware: Hardware = STRONG,
    registry_url: str = "http://127.0.0.1:9",
    folders: dict[str, Path] | None = None,
    takes_folders: bool = False,
) -> AsyncGenerator[FileNode]:
    """Joined, with these models and copies of these model folders in its own folder, their digests known."""
    takes = takes_folders or folders is not None
    node = FileNode(address, name, folder / name, hardware=hardware, registry_url=registry_url, takes_folders=takes)
    for model, source in (folders or {}).items():
        shutil.copytree(source, folder / name / "own" / model)
    for model, content in (models or {}).items():
        node.put(model, content)
    await node.start()
    try:
        yield node
    finally:
        await node.aclose()
