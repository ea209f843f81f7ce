"""A model on its way to a PC's disk, told as Ollama tells of a pull (docs/api.md, "Pull a Model")."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from chorus_http.replies import encoded
from chorus_proto.cluster import Cluster
from chorus_proto.errors import Cancelled, ClusterError, CoordinatorUnavailable, TransferFailed
from chorus_proto.transfers import Transfer, TransferState

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.25
_STOP_WITHIN_S = 2.0


@dataclass(frozen=True, slots=True)
class PullLine:
    """One line of the answer, as an object."""

    shown: dict[str, object]


@dataclass(frozen=True, slots=True)
class LastLine(PullLine):
    """The model is there."""


class Pulls:
    """The pulls that callers of this process wait for. One that only they began ends when the last of them leaves, as
    Ollama's do; what came stays on the disk for the next try."""

    def __init__(self, cluster: Cluster, *, answer_within_s: float) -> None:
        self._cluster = cluster
        self._answer_within_s = answer_within_s
        self._watchers: Counter[str] = Counter()
        self._ours: set[str] = set()

    async def lines(self, source: str) -> AsyncGenerator[PullLine, None]:
        """What goes on, when it changes. Raises what `Cluster.pull_model` raises, and how the transfer failed."""
        transfer = await self._begun(source)
        self._watchers[transfer.transfer_id] += 1
        try:
            yield PullLine({"status": "pulling manifest"})
            before: Transfer | None = None
            while not transfer.state.is_over:
                if transfer != before and transfer.state is TransferState.RUNNING:
                    yield PullLine(_progress(transfer))
                before = transfer
                await asyncio.sleep(_LOOK_EVERY_S)
                transfer = await self._now(transfer)
            if transfer.state is not TransferState.DONE:
                raise transfer.error or Cancelled("The transfer was cancelled.")
            yield PullLine(_progress(transfer))
            for status in ("verifying sha256 digest", "writing manifest"):
                yield PullLine({"status": status})
            yield LastLine({"status": "success"})
        finally:
            await self._left(transfer)

    async def _begun(self, source: str) -> Transfer:
        try:
            async with asyncio.timeout(self._answer_within_s):
                known = {one.transfer_id for one in await self._cluster.transfers()}
                transfer = await self._cluster.pull_model(source)
        except TimeoutError:
            raise CoordinatorUnavailable("The coordinator did not answer in time.") from None
        if transfer.transfer_id not in known:
            self._ours.add(transfer.transfer_id)
        return transfer

    async def _now(self, transfer: Transfer) -> Transfer:
        """Raises TransferFailed when the coordinator knows it no more, and CoordinatorUnavailable."""
        try:
            async with asyncio.timeout(self._answer_within_s):
                listed = await self._cluster.transfers()
        except TimeoutError:
            raise CoordinatorUnavailable("The coordinator did not answer in time.") from None
        found = next((one for one in listed if one.transfer_id == transfer.transfer_id), None)
        if found is None:
            raise TransferFailed(f"The coordinator knows nothing more of {transfer.model} on its way; ask again.")
        return found

    async def _left(self, transfer: Transfer) -> None:
        name = transfer.transfer_id
        self._watchers[name] -= 1
        if self._watchers[name]:
            return
        del self._watchers[name]
        if name not in self._ours:
            return
        self._ours.discard(name)
        if not transfer.state.is_over:
            # The caller has gone: shielded, so that its going does not take the order back too.
            await asyncio.shield(self._stop(name))

    async def _stop(self, transfer_id: str) -> None:
        try:
            async with asyncio.timeout(_STOP_WITHIN_S):
                await self._cluster.cancel_transfer(transfer_id)
        except (ClusterError, TimeoutError) as error:
            log.info("transfer %s goes on: %s", transfer_id, error)


def pull_line(line: PullLine) -> bytes:
    return encoded(line.shown) + b"\n"


def _progress(transfer: Transfer) -> dict[str, object]:
    named = transfer.digest[:12] or transfer.model
    shown: dict[str, object] = {"status": f"pulling {named}"}
    if transfer.digest:
        shown["digest"] = f"sha256:{transfer.digest}"
    if transfer.total_bytes is not None:
        shown |= {"total": transfer.total_bytes, "completed": min(transfer.done_bytes, transfer.total_bytes)}
    return shown | {"x_chorus": {"transfer_id": transfer.transfer_id, "node": transfer.node_name}}
