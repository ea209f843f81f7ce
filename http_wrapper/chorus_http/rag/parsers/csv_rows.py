"""Tables of values: each row becomes one line that names its columns, so that a row makes sense alone."""

from __future__ import annotations

import csv
import io

from chorus_http.rag.documents import BlockKind, Parsed
from chorus_http.rag.parsers.outcome import ParseLimits, Refusal, Refused, TextBuilder

_FIELD_CHARACTERS = 1_000_000
_ROWS_TOGETHER = 50


def parse_csv(text: str, limits: ParseLimits) -> Parsed:
    """Rows under the header of the first line. Raises Refused for what no CSV reader takes."""
    csv.field_size_limit(_FIELD_CHARACTERS)
    try:
        dialect: type[csv.Dialect] = csv.Sniffer().sniff(text[:16_384], delimiters=",;\t|")
    except csv.Error:
        dialect = csv.excel
    built = TextBuilder(limits)
    header: list[str] | None = None
    together: list[str] = []
    try:
        for row in csv.reader(io.StringIO(text), dialect):
            if not any(cell.strip() for cell in row):
                continue
            if header is None:
                header = [cell.strip() for cell in row]
                continue
            together.append(_line(header, row))
            if len(together) >= _ROWS_TOGETHER:
                built.add(BlockKind.LINES, "\n".join(together))
                together.clear()
    except csv.Error as error:
        raise Refused(Refusal.UNREADABLE, f"The file is not a table of values: {error}.") from None
    if header is not None and not together and not built.blocks:
        together.append(", ".join(header))
    built.add(BlockKind.LINES, "\n".join(together))
    return built.parsed()


def _line(header: list[str], row: list[str]) -> str:
    """`name: value; …`; line ends within a cell become spaces, cells beyond the header stand bare."""
    cells: list[str] = []
    for index, cell in enumerate(row):
        value = " ".join(cell.split())
        if value:
            name = header[index] if index < len(header) else ""
            cells.append(f"{name}: {value}" if name else value)
    return "; ".join(cells)
