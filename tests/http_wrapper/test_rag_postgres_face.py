"""Documents in PostgreSQL, by way of two HTTP addresses that share them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psycopg

from chorus_http.settings import HttpSettings
from tests.http_wrapper.test_rag_routes import answering, error_of, face
from tests.support.embedder import WordEmbedder


def test_two_addresses_share_the_documents_of_one_database(tmp_path: Path, postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA IF EXISTS chorus_rag CASCADE")
    settings = HttpSettings(rag_database=postgres_url)

    async def run() -> None:
        async with (
            asyncio.timeout(60),
            face(tmp_path / "one", settings=settings) as one,
            face(tmp_path / "other", settings=settings) as other,
        ):
            added = await one.add("# House\n\nThe cellar floods in spring.", source="house.md", metadata={"year": 2026})
            (found,) = await other.found("When does the cellar flood?", filter={"year": {"gte": 2026}})
            assert (found["document_id"], found["headings"]) == (added["id"], ["House"])
            assert await other.found("cellar", filter={"year": 2025}) == []
            # An edit over there costs its own chunks, and is found here.
            again = await other.add("# House\n\nThe cellar is dry.", source="house.md", metadata={"year": 2026})
            assert (again["id"], again["unchanged"]) == (added["id"], False)
            assert [each["text"] for each in await one.found("cellar")] == ["The cellar is dry."]
            one.cluster.engine = answering("Dry [1].", [])
            told = (await one.http.post("/rag/ask", json={"question": "Is the cellar dry?"})).json()
            assert [each["document_id"] for each in told["citations"]] == [added["id"]]
            assert (await other.http.delete(f"/rag/documents/{added['id']}")).status_code == 204
            assert error_of(await one.http.delete(f"/rag/documents/{added['id']}"))[0] == 404
            assert await one.found("cellar") == []
            # The vectors of another model are refused here as in a file.
            await one.add("The roof is made of slate.")
            async with face(tmp_path / "third", settings=settings, embedder=WordEmbedder("sha256:another")) as third:
                refused = await third.http.post("/rag/search", json={"query": "roof"})
                assert error_of(refused)[:2] == (409, "embedding_model_changed")

    asyncio.run(run())
