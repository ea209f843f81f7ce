"""What every parser may use, and how it refuses. Free of the error table: that would load gRPC into each child."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from chorus_http.rag.documents import Block, BlockKind, Parsed


class Refusal(StrEnum):
    """Codes of `chorus_proto.errors`, by their values."""

    UNREADABLE = "unreadable_document"
    TOO_LARGE = "expanded_too_large"
    UNSUPPORTED = "unsupported_media_type"
    INVALID = "invalid_request"


class Refused(Exception):
    """The file cannot be read; the message is for its sender."""

    def __init__(self, reason: Refusal, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class ParseLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Of one document. A child process is given them as JSON."""

    memory_bytes: int = 512 * 2**20
    cpu_s: int = 20
    written_file_bytes: int = 64 * 2**20
    expanded_bytes: int = 100 * 2**20
    """Of an archive, and of the text that comes out of any file (as UTF-8)."""
    expanded_ratio: int = 100
    archive_entries: int = 1000
    pages: int = 2000


class TextBuilder:
    """Collects the text of a document whose file is not its text. Blocks stand a blank line apart."""

    def __init__(self, limits: ParseLimits) -> None:
        self._parts: list[str] = []
        self._blocks: list[Block] = []
        self._at = 0
        self._room = limits.expanded_bytes

    def add(self, kind: BlockKind, text: str, *, level: int = 0, page: int | None = None) -> None:
        """Append one block; one of blanks only is left out. Raises Refused when the text grows over its limit."""
        text = storable(text).strip("\r\n\t ")
        if not text:
            return
        self._room -= len(text.encode("utf-8", "replace")) + 2
        if self._room < 0:
            raise Refused(Refusal.TOO_LARGE, "The document's text is larger than the limit.")
        if self._parts:
            self._parts.append("\n\n")
            self._at += 2
        self._parts.append(text)
        self._blocks.append(Block(kind, self._at, self._at + len(text), level, page))
        self._at += len(text)

    @property
    def blocks(self) -> int:
        """How many there are so far."""
        return len(self._blocks)

    def parsed(self, *, title: str = "", notices: tuple[str, ...] = ()) -> Parsed:
        name = " ".join(storable(title).split())
        return Parsed(text="".join(self._parts), blocks=tuple(self._blocks), title=name, notices=notices)


def storable(text: str) -> str:
    """Without what no database takes: half surrogate pairs, which PDFs hold, and NUL."""
    if "\0" in text:
        text = text.replace("\0", "")
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text
