"""Cuts a document into the chunks that are indexed: by its headings, then by paragraphs, then by lines or sentences.

A chunk never crosses a heading, and begins with the last sentences of the chunk before it in its section (the overlap).
Cutting a document again after an edit keeps the chunks that the edit did not touch: their paragraphs are recognised by
their digests (`Chunk.units`), and only what lies between is packed anew.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from chorus_http.rag.documents import BlockKind, Chunk, Parsed

UNIT_DIGEST_BYTES = 8
CHUNK_DIGEST_BYTES = 16
_CONTEXT_CHARACTERS = 200

# About what word-piece vocabularies do: words in pieces of some five letters, each ideograph and sign by itself.
_PIECE = re.compile(r"[^\W\u2e80-\uffff]{1,5}|[\u2e80-\uffff]|[^\w\s]")
_SENTENCE_END = re.compile(r"[.!?…][\"'”’)\]]*\s+|[。！？]|\n{2,}")  # noqa: RUF001  # marks of other scripts are meant


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkSizes:
    """In tokens as `tokens_estimate` counts them."""

    target: int = 250
    overlap: int = 30


@dataclass(frozen=True, slots=True)
class _Unit:
    """What is packed: a paragraph, or a piece of one that is larger than a chunk."""

    start: int
    end: int
    headings: tuple[str, ...]
    page: int | None
    tokens: int
    prose: bool
    digest: bytes


def tokens_estimate(text: str) -> int:
    """How many tokens an embedding model makes of a text; within some 20 % for prose."""
    return sum(1 for _ in _PIECE.finditer(text))


def chunk(parsed: Parsed, title: str, sizes: ChunkSizes, *, earlier: Sequence[bytes] = ()) -> list[Chunk]:
    """The chunks of a document, in order; `earlier` are the `units` of those it had before an edit."""
    units = list(_units(parsed, sizes))
    groups = list(_grouped(units, sizes, earlier))
    return [_chunk(parsed.text, title, sizes, ordinal, groups) for ordinal in range(len(groups))]


def _chunk(text: str, title: str, sizes: ChunkSizes, ordinal: int, groups: Sequence[Sequence[_Unit]]) -> Chunk:
    group = groups[ordinal]
    first = group[0]
    start, end = first.start, group[-1].end
    before = groups[ordinal - 1][-1] if ordinal else None
    if before is not None and before.headings == first.headings and before.prose and first.prose:
        tail = _tail(text, before, sizes.overlap)
        start = tail if tail < before.end else start
    context = " > ".join(part for part in (title, *first.headings) if part)[:_CONTEXT_CHARACTERS]
    body = text[start:end]
    digest = hashlib.blake2b(f"{context}\0{body}".encode("utf-8", "replace"), digest_size=CHUNK_DIGEST_BYTES)
    return Chunk(
        ordinal=ordinal,
        start=start,
        end=end,
        headings=first.headings,
        text=body,
        context=context,
        digest=digest.digest(),
        units=b"".join(unit.digest for unit in group),
        page=first.page,
    )


def _tail(text: str, unit: _Unit, overlap_tokens: int) -> int:
    """Where the last whole sentences of a unit begin that together keep within the overlap; its end when none does."""
    starts = [at for at, _ in _pieces(text, unit.start, unit.end)]
    taken = unit.end
    for at in reversed(starts):
        if tokens_estimate(text[at : unit.end]) > overlap_tokens:
            break
        taken = at
    return taken


def _grouped(units: Sequence[_Unit], sizes: ChunkSizes, earlier: Sequence[bytes]) -> Iterator[list[_Unit]]:
    known = {group[:UNIT_DIGEST_BYTES]: group for group in earlier if group}
    waiting: list[_Unit] = []
    at = 0
    while at < len(units):
        group = known.get(units[at].digest, b"")
        count = len(group) // UNIT_DIGEST_BYTES
        if count and b"".join(unit.digest for unit in units[at : at + count]) == group:
            yield from _packed(waiting, sizes)
            waiting = []
            yield list(units[at : at + count])
            at += count
        else:
            waiting.append(units[at])
            at += 1
    yield from _packed(waiting, sizes)


def _packed(units: Sequence[_Unit], sizes: ChunkSizes) -> Iterator[list[_Unit]]:
    """As many neighbours of one section as fit into the target."""
    group: list[_Unit] = []
    tokens = 0
    for unit in units:
        if group and (unit.headings != group[0].headings or tokens + unit.tokens > sizes.target):
            yield group
            group, tokens = [], 0
        group.append(unit)
        tokens += unit.tokens
    if group:
        yield group


def _units(parsed: Parsed, sizes: ChunkSizes) -> Iterator[_Unit]:
    path: list[tuple[int, str]] = []
    bare: _Unit | None = None
    for block in parsed.blocks:
        text = parsed.text[block.start : block.end]
        if block.kind is BlockKind.HEADING:
            if bare is not None and block.level <= path[-1][0]:
                yield bare
            path = [(level, words) for level, words in path if level < block.level]
            path.append((block.level, " ".join(text.split())))
            headings = tuple(words for _, words in path)
            bare = _unit(parsed.text, block.start, block.end, headings, block.page, prose=False)
            continue
        bare = None  # its words stand in the context of what follows
        headings = tuple(words for _, words in path)
        prose = block.kind is BlockKind.PARAGRAPH
        spans = [(block.start, block.end)]
        if tokens_estimate(text) > sizes.target:
            spans = list(_split(parsed.text, block.start, block.end, sizes.target, prose=prose))
        for start, end in spans:
            yield _unit(parsed.text, start, end, headings, block.page, prose=prose)
    if bare is not None:
        yield bare


def _unit(text: str, start: int, end: int, headings: tuple[str, ...], page: int | None, *, prose: bool) -> _Unit:
    body = text[start:end]
    seen = "\0".join((*headings, body)).encode("utf-8", "replace")
    digest = hashlib.blake2b(seen, digest_size=UNIT_DIGEST_BYTES).digest()
    return _Unit(start, end, headings, page, tokens_estimate(body), prose, digest)


def _split(text: str, start: int, end: int, target: int, *, prose: bool) -> Iterator[tuple[int, int]]:
    """Spans of at most `target` tokens: whole sentences or lines, and pieces of one only where it is longer itself."""
    pieces = _pieces(text, start, end) if prose else _line_spans(text, start, end)
    open_start, open_end, open_tokens = start, start, 0
    for piece_start, piece_end in pieces:
        tokens = tokens_estimate(text[piece_start:piece_end])
        if open_tokens and open_tokens + tokens > target:
            yield open_start, open_end
            open_start, open_tokens = piece_start, 0
        if tokens > target:
            *whole, (open_start, piece_end) = _cut(text, piece_start, piece_end, target)
            yield from whole
            tokens = tokens_estimate(text[open_start:piece_end])
        open_end = piece_end
        open_tokens += tokens
    if open_end > open_start:
        yield open_start, open_end


def _cut(text: str, start: int, end: int, target: int) -> list[tuple[int, int]]:
    """Spans of `target` tokens each, wherever that falls."""
    ends = [found.end() for index, found in enumerate(_PIECE.finditer(text, start, end), 1) if index % target == 0]
    if not ends or ends[-1] < end:
        ends.append(end)
    return list(zip([start, *ends[:-1]], ends, strict=True))


def _pieces(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Sentences with the blanks after them."""
    at = start
    for found in _SENTENCE_END.finditer(text, start, end):
        yield at, found.end()
        at = found.end()
    if at < end:
        yield at, end


def _line_spans(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    at = start
    while at < end:
        found = text.find("\n", at, end)
        until = end if found < 0 else found + 1
        yield at, until
        at = until
