"""How far documents are that come in: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Protocol

from chorus_cli.front import Front
from chorus_http.rag.bodies import IngestReply
from chorus_proto.logs import escaped

LOOK_EVERY_S = 0.3
_LINE_EVERY_S = 10.0


class Progress(Protocol):
    """Where progress is shown. `before` and `total`: of the files of this command, those that are over already."""

    def show(self, ingest: IngestReply, *, before: int, total: int) -> None: ...


def followed(
    front: Front,
    ingest: IngestReply,
    progress: Progress,
    *,
    before: int,
    total: int,
    pause: Callable[[float], None] = time.sleep,
) -> IngestReply:
    """Look until it is over; whoever interrupts ends it too. Raises as `Front.ask`."""
    path = f"/rag/ingests/{ingest.ingest_id}"
    try:
        while True:
            progress.show(ingest, before=before, total=total)
            if ingest.ended_unix_s is not None:
                return ingest
            pause(LOOK_EVERY_S)
            ingest = front.ask("GET", path, IngestReply)
    except KeyboardInterrupt:
        front.delete(path)
        raise


class Lines:
    """For a pipe or a log: a line every ten seconds."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._told_at_s = now_s()

    def show(self, ingest: IngestReply, *, before: int, total: int) -> None:
        if self._now_s() - self._told_at_s < _LINE_EVERY_S:
            return
        self._told_at_s = self._now_s()
        print(sentence(ingest, before=before, total=total), file=sys.stderr, flush=True)


class Bars:
    """For a terminal: one bar for the files, one for the chunks of those that are being read. Use it as a context."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Drawn

        self._drawn = Drawn(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
        )
        self._files = self._drawn.add_task("files", total=None)
        self._chunks = self._drawn.add_task("chunks", total=None)

    def __enter__(self) -> Bars:
        self._drawn.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._drawn.stop()

    def show(self, ingest: IngestReply, *, before: int, total: int) -> None:
        at = next((one.name for one in ingest.documents if one.document_id is None and one.error is None), "")
        name = escaped(at.rpartition("/")[2])[:40]
        self._drawn.update(self._files, completed=before + ingest.documents_done, total=total)
        self._drawn.update(
            self._chunks,
            description=f"chunks {name}".rstrip(),
            completed=ingest.chunks_done,
            total=ingest.chunks_total or None,
        )


def sentence(ingest: IngestReply, *, before: int, total: int) -> str:
    """`file 12 of 40, 310 of 512 chunks`."""
    at = min(before + ingest.documents_done + 1, total)
    return f"file {at} of {total}, {ingest.chunks_done} of {ingest.chunks_total} chunks"
