"""Mirrors chorus_http/rag/{embedder,engine_embedder,cluster_embedder}.py and chorus_cli/embedding_engine.py."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from chorus_cli.embedding_engine import EmbeddingEngine
from chorus_http.rag.cluster_embedder import ClusterEmbedder
from chorus_http.rag.embedder import Purpose, prefixed, unit_rows
from chorus_http.rag.engine_embedder import EngineEmbedder
from chorus_http.state import StateReader
from chorus_proto.errors import (
    DeadlineExceeded,
    Draining,
    EngineFailed,
    InvalidRequest,
    LoadFailed,
    ModelNotFound,
)
from chorus_proto.ids import ModelName
from chorus_proto.values import ModelSummary
from tests.support.fake_cluster import NODE, FakeCluster
from tests.support.http_face import until


def test_the_real_model_puts_texts_of_one_meaning_together_and_outlives_its_process() -> None:
    async def run() -> None:
        engine = EmbeddingEngine(threads=1)
        embedder = EngineEmbedder(engine, within_s=60)
        try:
            identity = await embedder.identity()
            assert (identity.dimensions, len(identity.digest)) == (384, 64)
            cat, feline, tax = await embedder.embed(
                ["A cat sits on the mat.", "The feline rests on a rug.", "The tax law of 1987"], Purpose.DOCUMENT
            )
            assert cat @ feline > cat @ tax + 0.2
            (long, short) = await embedder.embed(["word " * 5000, "word"], Purpose.DOCUMENT)
            assert long @ long == pytest.approx(1.0, abs=1e-3)
            assert short @ short == pytest.approx(1.0, abs=1e-3)
            children = psutil.Process().children()
            mine = next(one for one in children if "--embedding" in one.cmdline())
            mine.kill()
            mine.wait(timeout=10)
            (again,) = await embedder.embed(["A cat sits on the mat."], Purpose.QUESTION)
            assert again @ cat > 0.99
        finally:
            await embedder.close()
        assert not [one for one in psutil.Process().children() if "--embedding" in one.cmdline()]
        with pytest.raises(Draining):
            await engine.address()

    asyncio.run(run())


def test_a_model_file_that_is_none_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUFnothing")

    async def run() -> str:
        engine = EmbeddingEngine(broken, threads=1)
        try:
            with pytest.raises(LoadFailed) as refused:
                await engine.address()
            return refused.value.message
        finally:
            await engine.close()

    assert "all-minilm-l6-v2 did not start" in asyncio.run(run())


def test_models_that_want_to_be_told_are_told_what_a_text_is_for() -> None:
    assert prefixed(["x"], "nomic-embed-text-v1.5", Purpose.QUESTION) == ["search_query: x"]
    assert prefixed(["x"], "Nomic-Embed-Text", Purpose.DOCUMENT) == ["search_document: x"]
    assert prefixed(["x"], "multilingual-e5-small", Purpose.DOCUMENT) == ["passage: x"]
    assert prefixed(["x"], "all-minilm-l6-v2", Purpose.QUESTION) == ["x"]


@pytest.mark.parametrize("rows", [[[0.0, 0.0]], [[1.0], [1.0, 2.0]], [[float("nan"), 1.0]], [[]]])
def test_what_is_no_vector_is_the_engines_failure(rows: list[list[float]]) -> None:
    with pytest.raises(EngineFailed):
        unit_rows(rows, model="m")


def cluster_with(*models: ModelSummary) -> StateReader:
    cluster = FakeCluster()
    cluster.shown_state = dataclasses.replace(cluster.shown_state, models=models)
    return StateReader(cluster, within_s=1.0)


MINI = ModelSummary(name=ModelName("mini-embed"), ready_on=(NODE,), digest="sha256:aa", embedding=True)


def test_a_model_of_the_nodes_is_asked_for_by_its_file() -> None:
    asked: list[tuple[str, list[str], str]] = []

    async def source(
        model: ModelName, texts: Sequence[str], *, digest: str, background: bool
    ) -> Sequence[Sequence[float]]:
        asked.append((model, list(texts), digest))
        return [[3.0, 4.0] for _ in texts]

    async def run() -> None:
        embedder = ClusterEmbedder("mini-embed", source, cluster_with(MINI), within_s=5)
        identity = await embedder.identity()
        assert (identity.digest, identity.dimensions) == ("sha256:aa", 2)
        rows = await embedder.embed(["a", "b"], Purpose.DOCUMENT)
        assert rows.ravel().tolist() == pytest.approx([0.6, 0.8, 0.6, 0.8])
        assert (await embedder.embed([], Purpose.DOCUMENT)).shape == (0, 2)

    asyncio.run(run())
    assert asked[-1] == ("mini-embed", ["a", "b"], "sha256:aa")


def test_a_model_that_is_unknown_chats_or_hangs_is_named() -> None:
    async def hang(
        model: ModelName, texts: Sequence[str], *, digest: str, background: bool
    ) -> Sequence[Sequence[float]]:
        await asyncio.Event().wait()
        return []

    async def identity(states: StateReader) -> None:
        await ClusterEmbedder("mini-embed", hang, states, within_s=0.05).identity()

    with pytest.raises(ModelNotFound):
        asyncio.run(identity(cluster_with()))
    with pytest.raises(InvalidRequest, match="makes no embeddings"):
        asyncio.run(identity(cluster_with(dataclasses.replace(MINI, embedding=False))))
    with pytest.raises(DeadlineExceeded):
        asyncio.run(identity(cluster_with(MINI)))


def test_a_file_that_a_node_still_reads_is_waited_for_and_one_that_nobody_reads_goes_by_its_name() -> None:
    async def source(
        model: ModelName, texts: Sequence[str], *, digest: str, background: bool
    ) -> Sequence[Sequence[float]]:
        return [[3.0, 4.0] for _ in texts]

    unread = dataclasses.replace(MINI, digest="", on_disk_at=(NODE,))

    async def run() -> None:
        cluster = FakeCluster()
        states = StateReader(cluster, within_s=1.0)
        cluster.shown_state = dataclasses.replace(cluster.shown_state, models=(unread,))
        asking = asyncio.create_task(ClusterEmbedder("mini-embed", source, states, within_s=5).identity())
        await until(lambda: cluster.looks >= 2)
        cluster.shown_state = dataclasses.replace(cluster.shown_state, models=(MINI,))
        assert (await asking).digest == "sha256:aa"

        cluster.shown_state = dataclasses.replace(cluster.shown_state, models=(unread,))
        embedder = ClusterEmbedder("mini-embed", source, states, within_s=5, digest_within_s=0.01)
        assert (await embedder.identity()).digest == "name:mini-embed"
        looks = cluster.looks
        assert (await embedder.identity()).digest == "name:mini-embed"
        assert cluster.looks <= looks + 1

    asyncio.run(run())
