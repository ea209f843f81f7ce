"""Transfers of models for people and programs: a table, one JSON object each, and a bar that follows one to its end."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from chorus_cli.tables import duration
from chorus_proto.errors import ClusterError, NotFound, TransferFailed
from chorus_proto.logs import escaped
from chorus_proto.transfers import Transfer, TransferState
from chorus_server.console.text import size

HEADINGS = ("ID", "MODEL", "TO", "FROM", "STATE", "SIZE", "SPEED", "LEFT", "DETAIL")
LOOK_EVERY_S = 0.5
_LINE_EVERY_S = 10.0


class Transferring(Protocol):
    """Who knows of transfers: a `Cluster`."""

    async def transfers(self) -> tuple[Transfer, ...]: ...


class Progress(Protocol):
    """Where progress is shown; a context that ends with the transfer."""

    def show(self, transfer: Transfer) -> None: ...


async def followed(
    cluster: Transferring,
    begun: Transfer,
    progress: Progress,
    *,
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Transfer:
    """Look until it is over. Raises what it failed with, and NotFound when the coordinator forgot it (a restart)."""
    transfer = begun
    while True:
        progress.show(transfer)
        if transfer.state.is_over:
            if transfer.state is TransferState.DONE:
                return transfer
            raise transfer.error or TransferFailed("the coordinator gave no reason")
        await pause(LOOK_EVERY_S)
        known = {one.transfer_id: one for one in await cluster.transfers()}
        if begun.transfer_id not in known:
            raise NotFound(
                f"the coordinator does not know transfer {begun.transfer_id} any more; what came is kept: start again"
            )
        transfer = known[begun.transfer_id]


class Lines:
    """For a pipe or a log: a line when the state changes, and every ten seconds."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._told: tuple[TransferState, str] | None = None
        self._told_at_s = 0.0

    def show(self, transfer: Transfer) -> None:
        now, now_s = (transfer.state, transfer.source), self._now_s()
        if now == self._told and now_s - self._told_at_s < _LINE_EVERY_S:
            return
        self._told, self._told_at_s = now, now_s
        print(escaped(sentence(transfer)), file=sys.stderr, flush=True)


class Bar:
    """For a terminal. Use it as a context."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Drawn

        self._drawn = Drawn(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TextColumn("{task.fields[speed]}", markup=False),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._row = self._drawn.add_task("", total=None, speed="")

    def __enter__(self) -> Bar:
        self._drawn.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._drawn.stop()

    def show(self, transfer: Transfer) -> None:
        self._drawn.update(
            self._row,
            description=escaped(_title(transfer)),
            completed=transfer.done_bytes,
            total=transfer.total_bytes,
            speed=_speed(transfer),
        )


def sentence(transfer: Transfer) -> str:
    """`m to cellar from attic: running, 120 MiB of 4.1 GiB (3%), 54 MiB/s, 1 min 02 s left`."""
    words: list[str] = [transfer.state.value]
    if transfer.done_bytes or transfer.total_bytes:
        of = f" of {size(transfer.total_bytes)}" if transfer.total_bytes else ""
        share = "" if transfer.share is None else f" ({transfer.share:.0%})"
        words.append(f"{size(transfer.done_bytes)}{of}{share}")
    if not transfer.state.is_over:
        left = "" if transfer.left_s is None else f"{duration(transfer.left_s)} left"
        words += [one for one in (_speed(transfer), left) if one]
    why = transfer.detail if transfer.error is None else transfer.error.message
    return f"{_title(transfer)}: {', '.join(words)}{f'; {why}' if why else ''}"


def _title(transfer: Transfer) -> str:
    return f"{transfer.model} to {transfer.node_name}{f' from {transfer.source}' if transfer.source else ''}"


def _speed(transfer: Transfer) -> str:
    return f"{size(round(transfer.bytes_per_s))}/s" if transfer.bytes_per_s > 0 else ""


def rows(transfers: Sequence[Transfer]) -> list[tuple[str, ...]]:
    """Under `HEADINGS`."""
    return [
        (
            one.transfer_id,
            one.model,
            one.node_name,
            one.source or "-",
            one.state if one.state.is_over or one.share is None else f"{one.state} {one.share:.0%}",
            size(one.total_bytes),
            _speed(one),
            "" if one.state.is_over or one.left_s is None else duration(one.left_s),
            one.detail if one.error is None else one.error.message,
        )
        for one in transfers
    ]


def fields(transfer: Transfer) -> dict[str, object]:
    """Of `--json`."""
    error: ClusterError | None = transfer.error
    return {
        "transfer_id": transfer.transfer_id,
        "kind": transfer.kind,
        "state": transfer.state,
        "model": transfer.model,
        "node_id": transfer.node_id,
        "node": transfer.node_name,
        "source": transfer.source,
        "done_bytes": transfer.done_bytes,
        "total_bytes": transfer.total_bytes,
        "bytes_per_s": transfer.bytes_per_s,
        "detail": transfer.detail,
        "digest": transfer.digest,
        "on_demand": transfer.on_demand,
        "error": None if error is None else {"code": error.code, "message": error.message},
    }
