"""Several answers growing side by side on a terminal, redrawn in place; gone once all is said."""

from __future__ import annotations

from collections.abc import Callable
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
        self._headings: dict[NodeId, str] = {}
        self._per_row = max(1, width // COLUMN_WIDTH)
        self._clock = clock
        self._drawn_at_s = clock.monotonic_s()
        console = Console(
            file=cast("IO[str]", _Sink(write)),
            width=width,
            height=1_000,
            force_terminal=True,
            legacy_windows=False,
            highlight=False,
        )
        self._live = Live(console=console, auto_refresh=False, transient=True)

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
        # Only the tail is shown: a character cut in two shows as a mark and is repaired by the full answer below.
        kept = PANEL_LINES * COLUMN_WIDTH * 4
        self._texts[event.node_id] = (self._texts.get(event.node_id, "") + event.text.decode("utf-8", "replace"))[
            -kept:
        ]
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
        panels = [self._panel(node_id) for node_id in self._texts]
        rows: list[Table] = []
        for begin in range(0, len(panels), self._per_row):
            row = Table.grid(expand=True)
            for _ in range(min(self._per_row, len(panels))):
                row.add_column(ratio=1)
            row.add_row(*panels[begin : begin + self._per_row])
            rows.append(row)
        self._live.update(Group(*rows), refresh=True)

    def _panel(self, node_id: NodeId) -> Panel:
        width = COLUMN_WIDTH - 4
        tail: list[str] = []
        for line in printable(self._texts[node_id]).split("\n"):
            tail += [line[begin : begin + width] for begin in range(0, len(line), width)] or [""]
        shown = Text("\n".join(tail[-PANEL_LINES:]), no_wrap=True)
        return Panel(shown, title=Text(printable(self._headings[node_id])), height=PANEL_LINES + 2)
