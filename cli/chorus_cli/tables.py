"""Tables for people: drawn on a terminal, plain aligned columns when piped."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from chorus_proto.logs import escaped
from chorus_server.console.text import table

Row = Sequence[str]


def print_table(headings: Row, rows: Sequence[Row]) -> None:
    """Cells hold words of remote PCs: what would drive the terminal is escaped."""
    if sys.stdout.isatty():
        _draw(headings, [[escaped(cell) for cell in row] for row in rows])
    else:
        print("\n".join(table(headings, rows)))


def _draw(headings: Row, rows: Sequence[Row]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        # Names and numbers must stay whole; the last column is the one that may wrap.
        drawn.add_column(heading, no_wrap=heading != headings[-1], overflow="fold", min_width=len(heading))
    for row in rows:
        drawn.add_row(*(Text(cell) for cell in row))
    Console().print(drawn)


def count(number: float) -> str:
    """`8.0 B`, `918 K` parameters; empty when unknown."""
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= limit:
            return f"{number / limit:.1f} {unit}"
    return f"{number:.0f}" if number else ""


def duration(seconds: float) -> str:
    """`3 h 05 min`, `42 s`."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
