"""Mirrors chorus_client/engines/embedding.py, on the bundled embedding model in a real llama-server."""

from __future__ import annotations

import asyncio
import base64
import math
from array import array
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

import chorus_client
from chorus_client.engines.base import LoadOptions
from chorus_client.engines.embedding import vectors_of
from chorus_client.engines.llama_server import LlamaServerEngine
from chorus_client.engines.ollama import OllamaEngine
from chorus_client.engines.ranking import ranks_of
from chorus_client.engines.served_process import ServedModel
from chorus_proto.errors import ContextLengthExceeded, EngineFailed, InvalidRequest, UnsupportedParameter
from chorus_proto.generation import Delta, Done, Generation, VectorForm
from tests.client.engine_contract import answered, silent
from tests.support.engines import TINY_PATH, OneFile
from tests.support.ollama_stand_in import OllamaStandIn
from tests.support.retold_gguf import retold

MINILM = Path(chorus_client.__path__[0], "models", "all-minilm-l6-v2-q8_0.gguf")
TEXTS = ("A cat sits on the mat.", "The kitten rests on a rug.", "Interest rates rose again.")


async def loaded(path: Path, *, embedding: bool) -> ServedModel:
    files = OneFile(path)
    file = replace(files.files()[0], embedding=embedding)
    return await LlamaServerEngine(files, threads=1).load(file, LoadOptions(slots=2, context_tokens=512), silent)


def test_texts_become_vectors_in_their_order_and_alike_ones_lie_close() -> None:
    async def check() -> None:
        model = await loaded(MINILM, embedding=True)
        try:
            text, done = await answered(model, Generation(inputs=TEXTS))
            cat, kitten, rates = (msgspec.json.decode(line, type=list[float]) for line in text.splitlines())
            assert len(cat) == 384
            assert math.isclose(math.hypot(*cat), 1, rel_tol=1e-3)
            assert _product(cat, kitten) > _product(cat, rates) + 0.2
            assert done.prompt_tokens > 15
            packed, _ = await answered(model, Generation(inputs=TEXTS[:1], vectors=VectorForm.BASE64, dimensions=384))
            raw = base64.b64decode(msgspec.json.decode(packed, type=str))
            assert array("f", raw).tolist() == pytest.approx(cat)
            with pytest.raises(UnsupportedParameter) as caught:
                await answered(model, Generation(inputs=TEXTS[:1], dimensions=5))
            assert caught.value.param == "dimensions"
            with pytest.raises(ContextLengthExceeded, match=r"602 tokens") as late:
                await answered(model, Generation(inputs=("word " * 600,)))
            assert late.value.param == "input"
            long = Generation(inputs=("cat " * 600, TEXTS[0]), cuts_inputs=True)
            longer = Generation(inputs=("cat " * 700,), cuts_inputs=True)
            shortened, told = await answered(model, long)
            cats, same = (msgspec.json.decode(line, type=list[float]) for line in shortened.splitlines())
            assert same == pytest.approx(cat, abs=1e-3)
            assert 512 < told.prompt_tokens < 530
            more_cats = msgspec.json.decode((await answered(model, longer))[0], type=list[float])
            assert more_cats == pytest.approx(cats, abs=1e-3)
        finally:
            await model.unload()

    asyncio.run(check())


def test_ollama_makes_the_same_vectors() -> None:
    async def check() -> None:
        bundled = await loaded(MINILM, embedding=True)
        try:
            own, _ = await answered(bundled, Generation(inputs=TEXTS))
        finally:
            await bundled.unload()
        async with OllamaStandIn({"all-minilm:latest": MINILM}) as server:
            engine = OllamaEngine(server.url)
            try:
                (file,) = await engine.inventory()
                assert file.embedding
                model = await engine.load(file, LoadOptions(slots=2, context_tokens=512), silent)
                text, done = await answered(model, Generation(inputs=TEXTS))
                assert done.prompt_tokens > 15
                for mine, theirs in zip(own.splitlines(), text.splitlines(), strict=True):
                    vector = msgspec.json.decode(mine, type=list[float])
                    assert msgspec.json.decode(theirs, type=list[float]) == pytest.approx(vector, abs=1e-3)
                with pytest.raises(InvalidRequest, match="602 tokens"):
                    await answered(model, Generation(inputs=("word " * 600,)))
                await model.unload()
            finally:
                await engine.aclose()

    asyncio.run(check())


def test_a_model_that_makes_none_says_so() -> None:
    async def check() -> None:
        model = await loaded(TINY_PATH, embedding=False)
        try:
            with pytest.raises(InvalidRequest, match="makes no embeddings") as caught:
                await answered(model, Generation(inputs=("a",)))
            assert caught.value.param == "model"
        finally:
            await model.unload()

    asyncio.run(check())


@pytest.mark.parametrize("form", list(VectorForm))
@pytest.mark.parametrize("sent", [b"[0.5,-1.0]", b'"AAAAPwAAgL8="'], ids=["numbers", "base64"])
def test_what_the_server_sends_becomes_what_the_caller_wants(sent: bytes, form: VectorForm) -> None:
    body = b'{"data":[{"index":1,"embedding":[1.0,2.0]},{"index":0,"embedding":%b}],"usage":{"prompt_tokens":4}}' % sent
    first, _, done = vectors_of(body, Generation(inputs=("a", "b"), vectors=form))
    assert isinstance(first, Delta)
    assert first.text == ("[0.5,-1.0]\n" if form is VectorForm.FLOATS else '"AAAAPwAAgL8="\n')
    assert done == Done(finish_reason="stop", prompt_tokens=4)


@pytest.mark.parametrize(
    "body", [b"[]", b'{"data":[]}', b'{"data":[{"embedding":"a"}]}', b'{"data":[{"embedding":[1e]}]}']
)
def test_an_answer_that_is_none_is_the_engines_failure(body: bytes) -> None:
    with pytest.raises(EngineFailed):
        vectors_of(body, Generation(inputs=("a",)))


def test_a_model_that_ranks_reads_query_and_document_together_and_makes_no_vectors(tmp_path: Path) -> None:
    # Nobody taught it to rank: its scores mean nothing, but they are computed and told apart.
    ranker = retold(MINILM, tmp_path / "ranker.gguf", {"bert.pooling_type": 4})

    async def check() -> None:
        model = await loaded(ranker, embedding=True)
        try:
            text, done = await answered(model, Generation(inputs=(TEXTS[1], TEXTS[2], TEXTS[0]), ranks=True))
            query, *scores = (msgspec.json.decode(line) for line in text.splitlines())
            assert query is None
            assert len(scores) == 2
            assert scores[0] != scores[1]
            assert done.prompt_tokens > 15
            with pytest.raises(InvalidRequest, match="makes no embeddings") as caught:
                await answered(model, Generation(inputs=TEXTS))
            assert caught.value.param == "model"
            with pytest.raises(ContextLengthExceeded):
                await answered(model, Generation(inputs=("cat", "word " * 600), ranks=True))
        finally:
            await model.unload()

    asyncio.run(check())


def test_a_model_that_makes_vectors_makes_them_for_a_ranking_too() -> None:
    async def check() -> None:
        model = await loaded(MINILM, embedding=True)
        try:
            text, _ = await answered(model, Generation(inputs=TEXTS, ranks=True))
            assert [len(msgspec.json.decode(line, type=list[float])) for line in text.splitlines()] == [384] * 3
        finally:
            await model.unload()

    asyncio.run(check())


@pytest.mark.parametrize("body", [b"[]", b'{"results":[]}', b'{"results":[{"index":1,"relevance_score":0.5}]}'])
def test_a_ranking_that_is_none_is_the_engines_failure(body: bytes) -> None:
    with pytest.raises(EngineFailed, match="rank"):
        ranks_of(body, Generation(inputs=("query", "document"), ranks=True))


def _product(left: list[float], right: list[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))
