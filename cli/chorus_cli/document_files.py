"""Files of this PC on their way into a collection: which are sent, together with which, and which have vanished."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click

from chorus_cli.front import Front, Part, Refused
from chorus_http.rag.bodies import DocumentReply, DocumentsReply, IngestReply
from chorus_http.rag.folders import files_of
from chorus_proto.errors import InvalidRequest

BATCH_FILES = 64
BATCH_BYTES = 8 * 2**20
"""So much goes in one form; a larger file goes alone."""
_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Wanted:
    """The files that were named or lie below a folder that was, each by its whole path with `/` on every system."""

    files: Mapping[str, Path]
    folders: tuple[str, ...]


@dataclass(slots=True)
class Outcome:
    """What came of an `add`, by the files' paths."""

    added: list[str] = field(default_factory=list[str])
    unchanged: list[str] = field(default_factory=list[str])
    removed: list[str] = field(default_factory=list[str])
    failed: dict[str, str] = field(default_factory=dict[str, str])
    """Path -> the reason."""
    chunks_embedded: int = 0
    chunks_reused: int = 0


def wanted(paths: Sequence[Path]) -> Wanted:
    """Raises ClickException for a path that is none."""
    files: dict[str, Path] = {}
    folders: list[str] = []
    for path in paths:
        whole = path.expanduser().resolve()
        if whole.is_dir():
            folders.append(whole.as_posix().rstrip("/"))
            try:
                files.update((one.source, one.path) for one in files_of(whole))
            except InvalidRequest as error:
                raise click.ClickException(error.message) from None
        elif whole.is_file():
            files[whole.as_posix()] = whole
        else:
            raise click.ClickException(f"{path}: there is no such file or folder")
    return Wanted(files, tuple(folders))


def documents(front: Front, collection: str | None) -> Generator[DocumentReply]:
    """All of them, page by page. Raises as `Front.ask`."""
    after: str | None = None
    while True:
        chosen = {"limit": str(_PAGE), "collection": collection, "after": after}
        query = "&".join(f"{name}={_quoted(value)}" for name, value in chosen.items() if value is not None)
        page = front.ask("GET", f"/rag/documents?{query}", DocumentsReply)
        yield from page.documents
        after = page.next
        if after is None:
            return


def _quoted(text: str) -> str:
    from urllib.parse import quote

    return quote(text, safe="")


def vanished(chosen: Wanted, known: Mapping[str, DocumentReply]) -> list[DocumentReply]:
    """Documents whose files lay below a folder that was named, and are gone."""
    return [
        document
        for source, document in known.items()
        if source not in chosen.files and any(source.startswith(f"{folder}/") for folder in chosen.folders)
    ]


def batches(chosen: Mapping[str, Path], known: Mapping[str, DocumentReply], outcome: Outcome) -> Generator[list[Part]]:
    """Forms of files that the collection does not hold as they are; the others, and what cannot be read, are told."""
    batch: list[Part] = []
    size_bytes = 0
    for source, path in chosen.items():
        try:
            raw = path.read_bytes()
        except OSError as error:
            outcome.failed[source] = f"cannot be read: {error.strerror}"
            continue
        earlier = known.get(source)
        if earlier is not None and earlier.complete and earlier.digest == hashlib.sha256(raw).hexdigest():
            outcome.unchanged.append(source)
            continue
        if batch and (len(batch) == BATCH_FILES or size_bytes + len(raw) > BATCH_BYTES):
            yield batch
            batch, size_bytes = [], 0
        batch.append(("file", (source, raw)))
        size_bytes += len(raw)
    if batch:
        yield batch


def send(front: Front, batch: Sequence[Part], fields: Mapping[str, str], outcome: Outcome) -> IngestReply | None:
    """Begin to take a batch in. None where the server refused it as a whole, which is told of each of its files.

    Raises Refused for what is no fault of these files, and as `Front.upload`.
    """
    try:
        return front.upload("/rag/documents", batch, {**fields, "wait": "false"}, IngestReply)
    except Refused as refused:
        if refused.status != 413:
            raise
        outcome.failed.update((name, refused.message) for _, (name, _) in batch)
        return None


def note(ended: IngestReply, outcome: Outcome) -> None:
    """What came of each of its documents."""
    for document in ended.documents:
        if document.error is not None:
            outcome.failed[document.name] = document.error.message
        else:
            outcome.added.append(document.name)
            outcome.chunks_embedded += document.embedded
            outcome.chunks_reused += document.reused
