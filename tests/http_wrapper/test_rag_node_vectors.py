"""Mirrors chorus_http/rag/node_vectors.py: texts go to the nodes in parts, and vectors come back in their order."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator, Sequence

import msgspec
import numpy as np
import pytest

from chorus_http.rag.node_vectors import AT_ONCE, PART_TEXTS, NodeVectors
from chorus_proto.cluster import Call, CallEvent, CallFinished, CallOutput
from chorus_proto.errors import ClusterError, EngineFailed, InternalError, NodeLost
from chorus_proto.generation import Generation, VectorForm
from chorus_proto.ids import ModelName
from chorus_proto.values import Dialect, Priority, Timings, Usage
from tests.support.fake_cluster import FakeCluster

MODEL = ModelName("minilm")


def line(text: str) -> bytes:
    """What the nodes answer for a text: here its length and its last number."""
    row = np.array([len(text), float(text.rpartition(" ")[2])], dtype="<f4")
    return msgspec.json.encode(base64.b64encode(row.tobytes()).decode()) + b"\n"


class Nodes(FakeCluster):
    """Answers each part. `broken`: what becomes of the part with text 20; `gate`: calls wait for it."""

    def __init__(self, broken: bytes | ClusterError | None = None, gate: asyncio.Event | None = None) -> None:
        super().__init__()
        self._broken = broken
        self._gate = gate
        self.open = 0
        self.most_open = 0

    async def submit(self, call: Call) -> AsyncGenerator[CallEvent, None]:
        self.calls.append(call)
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            if self._gate is not None:
                await self._gate.wait()
            inputs = Generation.decoded(call.generation).inputs or ()
            payload = b"".join(map(line, inputs))
            if self._broken is not None and "text 20" in inputs:
                if isinstance(self._broken, ClusterError):
                    raise self._broken
                payload = self._broken
            # Cut where it comes, also inside a line.
            yield CallOutput(payload[:7], 0)
            yield CallFinished(finish_reason="stop", usage=Usage(), timings=Timings(), payload=payload[7:])
        finally:
            self.open -= 1


def vectors_of(nodes: FakeCluster, texts: Sequence[str], *, background: bool = False) -> Sequence[Sequence[float]]:
    async def run() -> Sequence[Sequence[float]]:
        async with asyncio.timeout(20):
            return await NodeVectors(nodes, within_s=9.0)(MODEL, texts, digest="sha256:aa", background=background)

    return asyncio.run(run())


TEXTS = [f"text {number}" for number in range(3 * PART_TEXTS + 1)]


def test_every_text_has_its_own_vector_however_many_parts_they_went_in() -> None:
    nodes = Nodes()
    rows = vectors_of(nodes, TEXTS)
    assert [list(row) for row in rows] == [[len(text), number] for number, text in enumerate(TEXTS)]
    sent = [Generation.decoded(call.generation) for call in nodes.calls]
    assert sorted(len(one.inputs or ()) for one in sent) == [1, *[PART_TEXTS] * 3]
    # A text that is too long for the model counts by its beginning, and floats travel as what they are.
    assert all(one.cuts_inputs and one.vectors is VectorForm.BASE64 for one in sent)
    assert vectors_of(nodes, []) == []


def test_parts_ask_for_one_file_and_for_documents_behind_everybody_who_waits() -> None:
    nodes = Nodes()
    vectors_of(nodes, TEXTS[:1])
    vectors_of(nodes, TEXTS[:1], background=True)
    question, document = nodes.calls
    assert (question.priority, document.priority) == (Priority.INTERACTIVE, Priority.BATCH)
    assert {(call.model, call.digest, call.dialect, call.within_s) for call in nodes.calls} == {
        (MODEL, "sha256:aa", Dialect.EMBEDDINGS, 9.0)
    }


def test_no_more_than_a_few_parts_are_under_way_at_once() -> None:
    async def run() -> None:
        gate = asyncio.Event()
        nodes = Nodes(gate=gate)
        texts = [f"text {number}" for number in range(PART_TEXTS * AT_ONCE * 2)]
        asking = asyncio.create_task(NodeVectors(nodes, within_s=9.0)(MODEL, texts, digest="", background=True))
        async with asyncio.timeout(20):
            while nodes.open < AT_ONCE:
                await asyncio.sleep(0)
            gate.set()
            assert len(await asking) == len(texts)
        assert nodes.most_open == AT_ONCE
        assert nodes.calls[0].digest is None

    asyncio.run(run())


@pytest.mark.parametrize(
    ("broken", "error", "told"),
    [
        (NodeLost("attic-pc is gone"), NodeLost, "attic-pc"),
        (b'"AAAA', EngineFailed, "no vector"),
        (b"[1.0, 2.0]\n" * PART_TEXTS, EngineFailed, "no vector"),
        (line("text 20"), EngineFailed, "1 vectors for 16 texts"),
    ],
    ids=["lost", "cut", "of another form", "too few"],
)
def test_one_part_that_fails_fails_all_and_leaves_no_call_open(
    broken: bytes | ClusterError, error: type[ClusterError], told: str
) -> None:
    nodes = Nodes(broken)
    with pytest.raises(error, match=told):
        vectors_of(nodes, TEXTS)
    assert nodes.open == 0


def test_an_answer_without_its_end_is_none() -> None:
    class Endless(FakeCluster):
        async def submit(self, call: Call) -> AsyncGenerator[CallEvent, None]:
            yield CallOutput(line("text 1"), 0)

    with pytest.raises(InternalError, match="closing event"):
        vectors_of(Endless(), ["text 1"])
