"""Plain text and source code: blocks are what blank lines part; the extracted text is the file's own."""

from __future__ import annotations

from collections.abc import Iterator

from chorus_http.rag.documents import Block, BlockKind, Parsed


def lines_of(text: str) -> Iterator[tuple[int, str]]:
    """(position, line without its end) of each line."""
    at = 0
    while at < len(text):
        end = text.find("\n", at)
        if end < 0:
            end = len(text)
        yield at, text[at:end]
        at = end + 1


def parse_text(text: str) -> Parsed:
    """Paragraphs."""
    return Parsed(text=text, blocks=tuple(_runs(text, BlockKind.PARAGRAPH)))


def parse_code(text: str) -> Parsed:
    """Stretches between blank lines, joined while the next one is indented: a function stays whole where it fits."""
    joined: list[Block] = []
    for block in _runs(text, BlockKind.LINES):
        if joined and text[block.start] in " \t})]":
            joined[-1] = Block(BlockKind.LINES, joined[-1].start, block.end)
        else:
            joined.append(block)
    return Parsed(text=text, blocks=tuple(joined))


def _runs(text: str, kind: BlockKind) -> Iterator[Block]:
    """Runs of lines that are not blank. A first line's indentation belongs to its run."""
    start: int | None = None
    end = 0
    for at, line in lines_of(text):
        if line.strip():
            start = at if start is None else start
            end = at + len(line)
        elif start is not None:
            yield Block(kind, start, end)
            start = None
    if start is not None:
        yield Block(kind, start, end)
