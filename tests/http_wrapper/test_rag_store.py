"""Mirrors chorus_http/rag/store.py: one contract for every store, on SQLite and on a real PostgreSQL with pgvector."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest

from chorus_http.rag.chunking import ChunkSizes, chunk
from chorus_http.rag.documents import Chunk, Collection, DocumentId, Kind, Metadata, NewDocument, new_document_id
from chorus_http.rag.filters import Condition, Filter
from chorus_http.rag.parsers.markdown import parse_markdown
from chorus_http.rag.sqlite_store import SqliteStore
from chorus_http.rag.store import Store, Vectors
from chorus_proto.errors import EmbeddingModelChanged, InsufficientMemory, NotFound, StoreUnavailable, VersionMismatch
from tests.support import postgres

DIMENSIONS = 16
Opened: TypeAlias = Callable[[], Store]


@pytest.fixture(params=["sqlite", "postgres"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opened]:
    """Opens the store, and opens it again."""
    stores: list[Store] = []
    if request.param == "sqlite":

        def open_store() -> Store:
            stores.append(SqliteStore(tmp_path / "rag.sqlite3", memory_bytes=2**28))
            return stores[-1]
    else:
        import psycopg

        from chorus_http.rag.postgres_store import PostgresStore

        url: str = request.getfixturevalue("postgres_url")
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("DROP SCHEMA IF EXISTS chorus_rag CASCADE")

        def open_store() -> Store:
            stores.append(PostgresStore(url))
            return stores[-1]

    yield open_store
    for store in stores:
        store.close()


@pytest.fixture
def store(opened: Opened) -> Store:
    return opened()


def vectors(count: int, *, seed: int = 1) -> Vectors:
    made = np.random.default_rng(seed).standard_normal((count, DIMENSIONS)).astype(np.float32)
    return np.divide(made, np.linalg.norm(made, axis=1, keepdims=True), dtype=np.float32)


def chunks_of(text: str, title: str = "A title") -> list[Chunk]:
    return chunk(parse_markdown(text), title, ChunkSizes(target=12, overlap=0))


def collection_of(store: Store, owner: str = "ann", name: str = "default", digest: str = "sha256:one") -> Collection:
    return store.open_collection(owner, name, embedder_digest=digest, dimensions=DIMENSIONS, now_unix_s=1.0)


def added(
    store: Store,
    text: str,
    *,
    owner: str = "ann",
    name: str = "default",
    source: str | None = None,
    metadata: Metadata | None = None,
    vectors_: Vectors | None = None,
) -> DocumentId:
    collection = collection_of(store, owner, name)
    new = NewDocument(
        id=new_document_id(),
        owner=owner,
        collection=name,
        title="A title",
        kind=Kind.MARKDOWN,
        digest="d1",
        size_bytes=len(text),
        source=source,
        metadata=metadata or {},
    )
    store.begin_document(collection, new, now_unix_s=2.0)
    chunks = chunks_of(text)
    ids = store.add_chunks(new.id, chunks, vectors(len(chunks)) if vectors_ is None else vectors_)
    store.finish_document(new.id, list(zip(ids, chunks, strict=True)), now_unix_s=3.0)
    return new.id


def found_by_words(store: Store, *words: str, chosen: Filter | None = None, owner: str = "ann") -> list[str]:
    collection = collection_of(store, owner)
    hits = store.by_words(collection, words, chosen or Filter(), limit=10)
    return [passage.text for passage in store.passages(hits)]


def found_by_vector(store: Store, vector: Vectors, chosen: Filter | None = None, limit: int = 10) -> list[str]:
    hits = store.by_vector(collection_of(store), vector, chosen or Filter(), limit=limit)
    return [passage.text for passage in store.passages(hits)]


def test_a_document_is_found_by_its_words_and_by_its_vectors(store: Store) -> None:
    rows = vectors(2)
    document = added(
        store, "The cellar floods in spring.\n\nThe attic stays dry all year round, they say.", vectors_=rows
    )
    assert found_by_words(store, "flood") == ["The cellar floods in spring."]
    assert found_by_vector(store, rows[1])[0].startswith("The attic")
    hit = store.by_vector(collection_of(store), rows[1], Filter(), limit=1)[0]
    assert hit.score == pytest.approx(1.0, abs=2e-3)
    (passage,) = store.passages([hit])
    assert (passage.document_id, passage.title, passage.start) == (document, "A title", 30)


def test_the_title_counts_among_the_words_of_every_chunk(store: Store) -> None:
    added(store, "Nothing else here.")
    assert found_by_words(store, "title") == ["Nothing else here."]


def test_owners_and_collections_are_worlds_of_their_own(store: Store) -> None:
    document = added(store, "Ann's secret garden.")
    added(store, "Bob's secret shed.", owner="bob")
    added(store, "Ann's other secret.", name="other")
    assert found_by_words(store, "secret") == ["Ann's secret garden."]
    assert len(found_by_vector(store, vectors(1)[0])) == 1
    assert store.document("bob", document) is None
    assert not store.delete_document("bob", document)
    assert [each.name for each in store.collections("ann")] == ["default", "other"]
    assert [each.documents for each in store.collections("ann")] == [1, 1]


def test_vectors_of_two_models_are_never_mixed(store: Store) -> None:
    collection_of(store)
    with pytest.raises(EmbeddingModelChanged) as refused:
        collection_of(store, digest="sha256:two")
    assert "delete the collection" in refused.value.message


def test_a_deleted_document_leaves_no_hit_and_is_gone_once(store: Store) -> None:
    document = added(store, "The cellar floods in spring.")
    other = added(store, "The attic stays dry.", vectors_=vectors(1, seed=2))
    found_by_vector(store, vectors(1)[0])
    assert store.delete_document("ann", document)
    assert found_by_words(store, "floods", "cellar") == []
    assert found_by_vector(store, vectors(1)[0]) == ["The attic stays dry."]
    assert not store.delete_document("ann", document)
    assert [each.id for each in store.documents("ann", limit=10)] == [other]


def test_a_document_that_is_deleted_while_it_is_taken_in_takes_no_more_chunks(store: Store) -> None:
    collection = collection_of(store)
    new = NewDocument(
        id=new_document_id(), owner="ann", collection="default", title="t", kind=Kind.TEXT, digest="d", size_bytes=1
    )
    store.begin_document(collection, new, now_unix_s=1.0)
    assert store.delete_document("ann", new.id)
    with pytest.raises(NotFound):
        store.add_chunks(new.id, chunks_of("Late words."), vectors(1))
    with pytest.raises(NotFound):
        store.finish_document(new.id, [], now_unix_s=1.0)
    assert found_by_words(store, "late") == []


def test_a_new_version_keeps_the_chunks_it_has_and_drops_the_others(store: Store) -> None:
    document = added(store, "First paragraph stands still.\n\nSecond paragraph will change soon.", source="a.md")
    known = store.document_of("ann", "default", "a.md")
    assert known is not None and known.id == document
    collection = collection_of(store)
    new = NewDocument(
        id=document, owner="ann", collection="default", title="New", kind=Kind.TEXT, digest="d2", size_bytes=9,
        source="a.md",
    )  # fmt: skip
    state, stored = store.begin_document(collection, new, now_unix_s=5.0)
    assert (state.complete, state.title, len(stored)) == (False, "New", 2)
    fresh = chunks_of("First paragraph stands still.\n\nAnother ending came.")
    assert fresh[0].digest == stored[0].digest
    (second,) = store.add_chunks(document, [fresh[1]], vectors(1, seed=9))
    after = store.finish_document(document, [(stored[0].id, fresh[0]), (second, fresh[1])], now_unix_s=6.0)
    assert (after.complete, after.chunks, after.created_unix_s, after.updated_unix_s) == (True, 2, 2.0, 6.0)
    assert found_by_words(store, "change") == []
    assert found_by_words(store, "ending") == ["Another ending came."]
    assert set(found_by_vector(store, vectors(1)[0])) == {"First paragraph stands still.", "Another ending came."}


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (Condition(field="year", any_of=(2024,)), {"a"}),
        (Condition(field="year", any_of=(2023, 2024)), {"a", "b"}),
        (Condition(field="tags", any_of=("x",)), {"a", "b"}),
        (Condition(field="tags", none_of=("y",)), {"a", "c"}),
        (Condition(field="year", at_least=2024), {"a"}),
        (Condition(field="year", at_least=2000, at_most=2023.5), {"b"}),
        (Condition(field="day", at_least="2024-02-01", at_most="2024-12-31"), {"b"}),
        (Condition(field="draft", any_of=(True,)), {"c"}),
        (Condition(field="draft", any_of=(1,)), set[str]()),
        (Condition(field="missing", any_of=("x",)), set[str]()),
    ],
)
def test_a_filter_chooses_documents_before_anything_is_ranked(
    store: Store, condition: Condition, expected: set[str]
) -> None:
    for text, metadata in (
        ("alpha word", {"year": 2024, "tags": ["x"], "day": "2024-01-15", "draft": False}),
        ("bravo word", {"year": 2023, "tags": ["x", "y"], "day": "2024-03-01"}),
        ("charlie word", {"year": "2024", "draft": True}),
    ):
        added(store, text, metadata=metadata)  # pyright: ignore[reportArgumentType]  # a list of texts is a list of values
    chosen = Filter(conditions=(condition,))
    names = {"alpha word": "a", "bravo word": "b", "charlie word": "c"}
    assert {names[text] for text in found_by_words(store, "word", chosen=chosen)} == expected
    assert {names[text] for text in found_by_vector(store, vectors(1)[0], chosen)} == expected


def test_a_filter_by_document_leaves_the_others_out(store: Store) -> None:
    added(store, "alpha word")
    wanted = added(store, "bravo word")
    assert found_by_words(store, "word", chosen=Filter(documents=(wanted,))) == ["bravo word"]
    assert found_by_vector(store, vectors(1)[0], Filter(documents=(wanted,))) == ["bravo word"]


def test_everything_is_there_again_after_a_restart(opened: Opened) -> None:
    store = opened()
    rows = vectors(1)
    document = added(store, "Kept words.", metadata={"k": "v"}, source="kept.md", vectors_=rows)
    store.close()
    store = opened()
    assert found_by_words(store, "kept") == ["Kept words."]
    assert found_by_vector(store, rows[0]) == ["Kept words."]
    known = store.document("ann", document)
    assert known is not None and (known.metadata, known.source, known.chunks) == ({"k": "v"}, "kept.md", 1)


def test_documents_are_listed_page_by_page(store: Store) -> None:
    ids = sorted(added(store, f"word {number}") for number in range(5))
    first = store.documents("ann", "default", limit=3)
    rest = store.documents("ann", "default", limit=3, after=first[-1].id)
    assert [each.id for each in (*first, *rest)] == ids
    assert store.documents("ann", "other", limit=3) == []


def test_a_dropped_collection_takes_everything_with_it_and_may_come_anew(store: Store) -> None:
    added(store, "Old words.")
    gone = collection_of(store)
    assert store.drop_collection("ann", "default")
    assert not store.drop_collection("ann", "default")
    assert store.by_words(gone, ["old"], Filter(), limit=5) == []
    assert store.documents("ann", limit=5) == []
    assert collection_of(store, digest="sha256:two").embedder_digest == "sha256:two"
    with pytest.raises(NotFound):
        new = NewDocument(
            id=new_document_id(), owner="ann", collection="default", title="", kind=Kind.TEXT, digest="", size_bytes=0
        )
        store.begin_document(gone, new, now_unix_s=1.0)


def test_searches_and_deletions_beside_each_other_never_fail(store: Store) -> None:
    documents = [added(store, f"word number {number}", vectors_=vectors(1, seed=number)) for number in range(30)]
    collection = collection_of(store)
    problems: list[BaseException] = []

    def search() -> None:
        try:
            while not over.is_set():
                near = store.by_vector(collection, vectors(1)[0], Filter(), limit=10)
                store.passages([*near, *store.by_words(collection, ["word"], Filter(), limit=10)])
        except BaseException as error:  # noqa: BLE001  # told to the test's own thread
            problems.append(error)

    over = threading.Event()
    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    for document in documents:
        assert store.delete_document("ann", document)
    over.set()
    for thread in threads:
        thread.join(timeout=30)
    assert problems == []
    assert found_by_vector(store, vectors(1)[0]) == []


def test_the_file_belongs_to_one_process_and_is_free_again_when_it_is_closed(tmp_path: Path) -> None:
    first = SqliteStore(tmp_path / "rag.sqlite3", memory_bytes=2**28)
    with pytest.raises(StoreUnavailable, match="another process"):
        SqliteStore(tmp_path / "rag.sqlite3", memory_bytes=2**28)
    closing = threading.Thread(target=first.close)
    closing.start()
    closing.join(timeout=10)
    first.close()
    SqliteStore(tmp_path / "rag.sqlite3", memory_bytes=2**28).close()


def test_a_damaged_file_and_one_of_a_newer_chorus_are_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "damaged.sqlite3").write_bytes(b"this is no database, however long it is" * 100)
    with pytest.raises(StoreUnavailable, match="damaged"):
        SqliteStore(tmp_path / "damaged.sqlite3", memory_bytes=2**28)
    store = SqliteStore(tmp_path / "newer.sqlite3", memory_bytes=2**28)
    store._writer.execute("PRAGMA user_version=99")  # pyright: ignore[reportPrivateUsage]  # what a newer one leaves
    store.close()
    with pytest.raises(VersionMismatch):
        SqliteStore(tmp_path / "newer.sqlite3", memory_bytes=2**28)


def test_a_collection_larger_than_the_memory_allowed_is_refused_with_the_fix(tmp_path: Path) -> None:
    with contextlib.closing(SqliteStore(tmp_path / "rag.sqlite3", memory_bytes=8)) as store:
        added(store, "Some words.")
        with pytest.raises(InsufficientMemory, match="rag_memory_bytes"):
            found_by_vector(store, vectors(1)[0])
        assert found_by_words(store, "words") == ["Some words."]


def test_a_server_without_pgvector_is_refused_with_the_fix() -> None:
    from chorus_http.rag.postgres_store import PostgresStore

    folder = postgres.system_bin()
    if folder is None or postgres.has_pgvector(folder):
        pytest.skip(postgres.NO_POSTGRES)
    with postgres.server(folder) as url, pytest.raises(StoreUnavailable, match="pgvector"):
        PostgresStore(url)


def test_a_server_that_is_away_is_named_without_its_password() -> None:
    from chorus_http.rag.postgres_store import PostgresStore

    with pytest.raises(StoreUnavailable) as refused:
        PostgresStore("postgresql://me:hunter2@127.0.0.1:1/none")
    assert "hunter2" not in str(refused.value)


def test_postgres_searches_a_large_collection_by_its_index_and_finds_the_same(postgres_url: str) -> None:
    import psycopg

    from chorus_http.rag.postgres_store import PostgresStore

    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA IF EXISTS chorus_rag CASCADE")
    with contextlib.closing(PostgresStore(postgres_url, index_above=500)) as store:
        rows = vectors(600)
        chunks = [replace(chunks_of("some words")[0], ordinal=number) for number in range(600)]
        collection = collection_of(store)
        new = NewDocument(
            id=new_document_id(), owner="ann", collection="default", title="", kind=Kind.TEXT, digest="", size_bytes=0
        )
        store.begin_document(collection, new, now_unix_s=1.0)
        store.add_chunks(new.id, chunks, rows)
        exact = [store.by_vector(collection, row, Filter(), limit=10) for row in rows[:20]]
        store.maintain(collection)
        assert store.index_state(collection).approximate
        near = [store.by_vector(collection, row, Filter(), limit=10) for row in rows[:20]]
        same = [
            len({hit.chunk_id for hit in a} & {hit.chunk_id for hit in b}) for a, b in zip(exact, near, strict=True)
        ]
        assert sum(same) / 200 >= 0.97
