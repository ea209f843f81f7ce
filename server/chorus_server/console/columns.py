"""Several answers growing side by side on a terminal, redrawn in place; gone once all is said."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import IO, cast

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from chorus_proto.clock import Clock
from chorus_proto.cluster import MemberAnswer, MemberDelta, MemberStarted
from chorus_proto.ids import NodeId
from chorus_server.console.text import printable

COLUMN_WIDTH = 38
"""Narrower than this, an answer is not readable; a wider terminal gets fewer rows of panels."""
PANEL_LINES = 8
REDRAW_EVERY_S = 0.1

_utf8 = partial(codecs.getincrementaldecoder("utf-8"), errors="replace")


class _Sink:
    """The little of a file that rich needs to write through a function."""

    encoding = "utf-8"

    def __init__(self, write: Callable[[str], None]) -> None:
        self.write = write

    def flush(self) -> None:
        """`write` flushes by itself."""

    def isatty(self) -> bool:
        return True


class Columns:
    """A panel for each member, holding the last lines of what it wrote. A context manager around one question."""

    def __init__(self, write: Callable[[str], None], *, width: int, clock: Clock) -> None:
        self._texts: dict[NodeId, str] = {}
        self._decoders: dict[NodeId, codecs.IncrementalDecoder] = {}
        self._headings: dict[NodeId, str] = {}
        self._width = width
        self._per_row = max(1, width // COLUMN_WIDTH)
        self._clock = clock
        self._drawn_at_s = clock.monotonic_s()
        console = Console(
            file=cast("IO[str]", _Sink(write)),
            width=width,
            force_terminal=True,
            legacy_windows=False,
            highlight=False,
        )
        # Redirected, what `write` prints would come back here.
        self._live = Live(
            console=console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
        )

    def __enter__(self) -> Columns:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def started(self, event: MemberStarted) -> None:
        self._texts[event.node_id] = ""
        self._headings[event.node_id] = f"{event.node_name} - {event.model}"
        self._draw()

    def grew(self, event: MemberDelta) -> None:
        piece = self._decoders.setdefault(event.node_id, _utf8()).decode(event.text)
        self._texts[event.node_id] = (self._texts.get(event.node_id, "") + piece)[-PANEL_LINES * self._width :]
        if self._clock.monotonic_s() - self._drawn_at_s >= REDRAW_EVERY_S:
            self._draw()

    def ended(self, answer: MemberAnswer) -> None:
        mark = "no answer" if answer.error is not None else f"{answer.seconds:.1f} s"
        self._headings[answer.node_id] = f"{answer.node_name} - {answer.model} - {mark}"
        if answer.error is not None:
            self._texts[answer.node_id] = answer.error.message
        self._draw()

    def _draw(self) -> None:
        self._drawn_at_s = self._clock.monotonic_s()
        per_row = min(self._per_row, len(self._texts))
        panels = [self._panel(node_id, self._width // per_row - 4) for node_id in self._texts]
        rows: list[Table] = []
        for begin in range(0, len(panels), per_row):
            row = Table.grid(expand=True)
            for _ in range(per_row):
                row.add_column(ratio=1)
            row.add_row(*panels[begin : begin + per_row])
            rows.append(row)
        self._live.update(Group(*rows), refresh=True)

    def _panel(self, node_id: NodeId, width: int) -> Panel:
        tail: list[str] = []
        for line in printable(self._texts[node_id]).split("\n"):
            tail += [line[begin : begin + width] for begin in range(0, len(line), width)] or [""]
        shown = Text("\n".join(tail[-PANEL_LINES:]), no_wrap=True, overflow="crop")
        return Panel(shown, title=Text(printable(self._headings[node_id])), height=PANEL_LINES + 2)
