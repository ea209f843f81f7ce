"""`chorus rag`: documents that questions are answered from."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from urllib.parse import quote

import click
import msgspec

from chorus_cli.document_files import Outcome, batches, documents, note, send, vanished, wanted
from chorus_cli.front import GIVEN, Front, fronted
from chorus_cli.ingest_progress import Bars, Lines, followed
from chorus_cli.options import settings_options
from chorus_cli.settings import CliSettings
from chorus_cli.tables import print_table
from chorus_http.rag.bodies import AskReply, CollectionsReply, DocumentReply, PassageReply, SearchReply, SourceReply
from chorus_proto.logs import escaped
from chorus_server.console.text import printable, size

HEADINGS = ("ID", "COLLECTION", "KIND", "CHUNKS", "SIZE", "TITLE", "SOURCE")
COLLECTION_HEADINGS = ("NAME", "DOCUMENTS", "CHUNKS", "SEARCHED")
_SHOWN_CHARACTERS = 300


def _given(json_help: str) -> Callable[[Callable[..., int | None]], Callable[..., int | None]]:
    """The options of every one of these commands."""

    def decorate(function: Callable[..., int | None]) -> Callable[..., int | None]:
        function = click.option("--json", "as_json", is_flag=True, help=json_help)(function)
        function = click.option("--collection", help="Which set of documents. [default: default]")(function)
        return settings_options(CliSettings, only=GIVEN)(function)

    return decorate


@click.group("rag")
def command() -> None:
    """Answer questions from documents: add files and folders, search them, ask."""


@command.command("add")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--metadata", multiple=True, metavar="NAME=VALUE", help="To filter by later; again for several.")
@click.option("--prune", is_flag=True, help="Also delete the documents of files that vanished from a folder.")
@_given("Print what came of each file, as JSON.")
def add(
    paths: tuple[Path, ...],
    metadata: tuple[str, ...],
    prune: bool,
    collection: str | None,
    as_json: bool,
    config: Path | None,
    **flags: object,
) -> int:
    """Add the files and folders PATHS of this PC; those that did not change since cost nothing.

    Of a folder everything that can be read is taken: txt, md, html, pdf, docx, csv and source code.
    """
    chosen = wanted(paths)
    told = _metadata(metadata)
    fields = {"collection": collection or "", "metadata": msgspec.json.encode(told).decode() if told else ""}
    fields = {name: value for name, value in fields.items() if value}

    def question(front: Front) -> Outcome:
        known = {one.source: one for one in documents(front, collection or "default") if one.source is not None}
        same = {source: one for source, one in known.items() if not told or one.metadata == told}
        outcome = Outcome()
        with Bars() if sys.stderr.isatty() else nullcontext(Lines(time.monotonic)) as progress:
            for batch in batches(chosen.files, same, outcome):
                begun = send(front, batch, fields, outcome)
                if begun is not None:
                    over = len(outcome.added) + len(outcome.unchanged) + len(outcome.failed)
                    note(followed(front, begun, progress, before=over, total=len(chosen.files)), outcome)
        for document in vanished(chosen, known) if prune else ():
            front.delete(f"/rag/documents/{document.id}")
            outcome.removed.append(document.source or document.id)
        return outcome

    outcome = fronted(question, config=config, flags=flags)
    if as_json:
        print(msgspec.json.encode(outcome).decode())
    else:
        for name, reason in outcome.failed.items():
            print(f"chorus: {escaped(name)}: {escaped(reason)}", file=sys.stderr)
        print(outcome_sentence(outcome))
    return 1 if outcome.failed else 0


@command.command("list")
@_given("Print all facts, as JSON.")
def list_documents(collection: str | None, as_json: bool, config: Path | None, **flags: object) -> None:
    """Show the documents, of one collection or of all."""
    found = fronted(lambda front: list(documents(front, collection)), config=config, flags=flags)
    if as_json:
        print(msgspec.json.encode(found).decode())
    elif not found:
        print("there is no document; add some: chorus rag add FILE FOLDER ...")
    else:
        print_table(HEADINGS, [document_row(one) for one in found])


@command.command("collections")
@settings_options(CliSettings, only=GIVEN)
@click.option("--json", "as_json", is_flag=True, help="Print all facts, as JSON.")
def collections(as_json: bool, config: Path | None, **flags: object) -> None:
    """Show the sets of documents."""
    found = fronted(
        lambda front: front.ask("GET", "/rag/collections", CollectionsReply).collections, config=config, flags=flags
    )
    if as_json:
        print(msgspec.json.encode(found).decode())
    elif not found:
        print("there is no document; add some: chorus rag add FILE FOLDER ...")
    else:
        rows = [(one.name, str(one.documents), str(one.chunks), _searched(one.recall_at_10)) for one in found]
        print_table(COLLECTION_HEADINGS, rows)


@command.command("search")
@click.argument("words", nargs=-1, required=True)
@click.option("--top-k", type=click.IntRange(1, 50), help="So many passages. [default: 5]")
@click.option("--mode", type=click.Choice(["hybrid", "words", "vectors"]), help="How to compare. [default: hybrid]")
@_given("Print the passages, as JSON.")
def search(
    words: tuple[str, ...],
    top_k: int | None,
    mode: str | None,
    collection: str | None,
    as_json: bool,
    config: Path | None,
    **flags: object,
) -> None:
    """Find the passages that come nearest to WORDS."""
    body = {"query": " ".join(words), "top_k": top_k, "mode": mode, "collection": collection}

    def question(front: Front) -> SearchReply:
        return front.ask("POST", "/rag/search", SearchReply, body=body, within_s=front.settings.ask_within_s)

    found = fronted(question, config=config, flags=flags)
    if as_json:
        print(msgspec.json.encode(found).decode())
    elif not found.results:
        print("nothing was found")
    for number, passage in enumerate(() if as_json else found.results, 1):
        text = " ".join(passage.text.split())
        print(f"[{number}] {where(passage)}\n    {escaped(text[:_SHOWN_CHARACTERS])}")


@command.command("ask")
@click.argument("words", nargs=-1, required=True)
@click.option("--model", help="Which model answers. [default: the largest that is loaded]")
@click.option("--top-k", type=click.IntRange(1, 50), help="From so many passages. [default: 5]")
@_given("Print answer and sources as one JSON object.")
def ask(
    words: tuple[str, ...],
    model: str | None,
    top_k: int | None,
    collection: str | None,
    as_json: bool,
    config: Path | None,
    **flags: object,
) -> int:
    """Answer the question WORDS from the documents, naming the passages. Exit code 1 where they hold no answer."""
    body = {"question": " ".join(words), "model": model, "top_k": top_k, "collection": collection}

    def whole(front: Front) -> AskReply:
        return front.ask("POST", "/rag/ask", AskReply, body=body, within_s=front.settings.ask_within_s)

    def streamed(front: Front) -> AskReply:
        finished: AskReply | None = None
        with front.events("/rag/ask", {**body, "stream": True}, within_s=front.settings.ask_within_s) as events:
            for name, told in events:
                if name == "delta":
                    print(printable(msgspec.json.decode(told, type=_Delta).text), end="", flush=True)
                elif name == "finished":
                    finished = msgspec.json.decode(told, type=AskReply)
        print()
        if finished is None:
            raise click.ClickException("the answer broke off")
        return finished

    reply = fronted(whole if as_json else streamed, config=config, flags=flags)
    if as_json:
        print(msgspec.json.encode(reply).decode())
    else:
        for source in reply.citations:
            print(f"  [{source.number}] {where(source)}")
        if reply.wrong_citations:
            named = ", ".join(map(str, reply.wrong_citations))
            print(f"chorus: the answer names passages that it was not given: {named}", file=sys.stderr)
    return 0 if reply.answered else 1


@command.command("delete")
@click.argument("ids", nargs=-1)
@click.option("--collection", help="Delete this whole collection.")
@click.option("--yes", is_flag=True, help="Do not ask before a collection is deleted.")
@click.option("--json", "as_json", is_flag=True, help="Print what was deleted, as JSON.")
@settings_options(CliSettings, only=GIVEN)
def delete(
    ids: tuple[str, ...], collection: str | None, yes: bool, as_json: bool, config: Path | None, **flags: object
) -> None:
    """Delete the documents IDS, or a collection."""
    if bool(ids) == (collection is not None):
        raise click.UsageError("name the IDs of documents, or a --collection")
    if collection is not None and not yes:
        click.confirm(f"Delete all documents of the collection {escaped(collection)!r}?", abort=True, err=True)

    def question(front: Front) -> None:
        if collection is not None:
            front.delete(f"/rag/collections/{quote(collection, safe='')}")
        for one in ids:
            front.delete(f"/rag/documents/{quote(one, safe='')}")

    fronted(question, config=config, flags=flags)
    print(msgspec.json.encode({"ids": ids, "collection": collection}).decode() if as_json else "deleted")


class _Delta(msgspec.Struct):
    text: str


def document_row(document: DocumentReply) -> tuple[str, ...]:
    """Under `HEADINGS`."""
    return (
        document.id,
        document.collection,
        document.kind if document.complete else f"{document.kind}, coming in",
        str(document.chunks),
        size(document.size_bytes),
        document.title,
        document.source or "",
    )


def where(passage: PassageReply | SourceReply) -> str:
    """`Handbook > Leave, page 3 (/srv/handbook.pdf)`."""
    page = "" if passage.page is None else f", page {passage.page}"
    source = f" ({passage.source})" if passage.source else ""
    return escaped(f"{' > '.join((passage.title, *passage.headings))}{page}{source}")


def outcome_sentence(outcome: Outcome) -> str:
    """`3 added (12 chunks embedded, 4 as they were), 40 unchanged, 1 removed, 1 failed`."""
    told = [f"{len(outcome.added)} added"]
    if outcome.added:
        told[0] += f" ({outcome.chunks_embedded} chunks embedded, {outcome.chunks_reused} as they were)"
    for number, word in (
        (len(outcome.unchanged), "unchanged"),
        (len(outcome.removed), "removed"),
        (len(outcome.failed), "failed"),
    ):
        if number:
            told.append(f"{number} {word}")
    return ", ".join(told)


def _searched(recall: float | None) -> str:
    return "exactly" if recall is None else f"approximately, recall {recall:.3f}"


def _metadata(given: tuple[str, ...]) -> dict[str, str | int | float | bool]:
    """Numbers, true and false as such; all else is text. Raises UsageError."""
    told: dict[str, str | int | float | bool] = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not name or not equals:
            raise click.UsageError(f"--metadata {one!r}: expected NAME=VALUE")
        try:
            told[name] = msgspec.json.decode(value.encode(), type=int | float | bool)
        except msgspec.MsgspecError:
            told[name] = value
    return told
