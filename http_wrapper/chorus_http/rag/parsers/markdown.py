"""Markdown by its blocks (CommonMark's headings, fences and paragraphs; GitHub's tables). The text stays as it is."""

from __future__ import annotations

import re

from chorus_http.rag.documents import Block, BlockKind, Parsed
from chorus_http.rag.parsers.plain import lines_of

_HEADING = re.compile(r" {0,3}(#{1,6})(?:[ \t]+|$)")
_UNDERLINE = re.compile(r" {0,3}(=+|-+)[ \t]*$")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_LINES = re.compile(r"\s*(?:[|>*+-]|\d{1,9}[.)])(?:\s|\||$)")
_FRONT_TITLE = re.compile(r"title:[ \t]*[\"']?([^\n\"']{1,200})")


class _Blocks:
    """The blocks found so far and the run of lines that is still open."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.found: list[Block] = []
        self._start: int | None = None
        self._end = 0
        self._rows = 0

    def line(self, at: int, line: str) -> None:
        if self._start is None:
            self._start, self._rows = at, 0
        self._end = at + len(line)
        self._rows += 1

    @property
    def rows(self) -> int:
        """Lines of the open run."""
        return self._rows if self._start is not None else 0

    def close(self, kind: BlockKind | None = None, *, level: int = 0, until: int | None = None) -> None:
        """End the open run; without a kind it is what its first line says."""
        if self._start is None:
            return
        start, end = self._start, self._end if until is None else until
        self._start = None
        if not self.text[start:end].strip():
            return
        if kind is None:
            kind = BlockKind.LINES if _LINES.match(self.text, start, end) else BlockKind.PARAGRAPH
        self.found.append(Block(kind, start, end, level))


def parse_markdown(text: str) -> Parsed:
    """Headings, code and paragraphs; the title is the front matter's, else that of the first heading."""
    blocks = _Blocks(text)
    fence: str | None = None
    title, skip_until = _front_matter(text)
    for at, line in lines_of(text):
        if at < skip_until:
            continue
        if fence is not None:
            blocks.line(at, line)
            if line.strip().startswith(fence) and not line.strip().strip(fence[0]):
                fence = None
                blocks.close(BlockKind.LINES)
        elif opened := _FENCE.match(line):
            blocks.close()
            fence = opened[1]
            blocks.line(at, line)
        elif heading := _HEADING.match(line):
            blocks.close()
            end = at + len(line.rstrip().rstrip("#").rstrip())
            start = at + heading.end()
            if end > start:
                blocks.found.append(Block(BlockKind.HEADING, start, end, len(heading[1])))
        elif blocks.rows == 1 and (under := _UNDERLINE.match(line)):
            blocks.close(BlockKind.HEADING, level=1 if under[1][0] == "=" else 2)
        elif line.strip():
            blocks.line(at, line)
        else:
            blocks.close()
    blocks.close(BlockKind.LINES if fence is not None else None)
    if not title:
        first = next((block for block in blocks.found if block.kind is BlockKind.HEADING), None)
        title = text[first.start : first.end].strip() if first is not None else ""
    return Parsed(text=text, blocks=tuple(blocks.found), title=title)


def _front_matter(text: str) -> tuple[str, int]:
    """The title that YAML between two `---` lines gives, and where the text after it begins."""
    if not text.startswith("---\n"):
        return "", 0
    end = text.find("\n---\n", 3)
    if end < 0:
        return "", 0
    named = _FRONT_TITLE.search(text, 4, end)
    return (named[1].strip() if named else ""), end + len("\n---\n")
