"""Vectors by the nodes, through the cluster's door: a few calls at once, each with a part of the texts."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from contextlib import aclosing

import msgspec
import numpy as np

from chorus_proto.cluster import Call, CallFinished, CallOutput, Cluster
from chorus_proto.dialects.parsed import text_bytes, tokens_estimate
from chorus_proto.errors import EngineFailed, InternalError
from chorus_proto.generation import Generation, VectorForm
from chorus_proto.ids import ModelName, new_request_id
from chorus_proto.values import Dialect, Priority

PART_TEXTS = 16
AT_ONCE = 8


class NodeVectors:
    """See `cluster_embedder.VectorSource`."""

    def __init__(self, cluster: Cluster, *, within_s: float) -> None:
        self._cluster = cluster
        self._within_s = within_s
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def __call__(
        self, model: ModelName, texts: Sequence[str], *, digest: str, background: bool
    ) -> Sequence[Sequence[float]]:
        parts = [tuple(texts[at : at + PART_TEXTS]) for at in range(0, len(texts), PART_TEXTS)]
        tasks = [asyncio.create_task(self._part(model, part, digest, background)) for part in parts]
        try:
            made = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return [row for rows in made for row in rows]

    async def _part(
        self, model: ModelName, part: tuple[str, ...], digest: str, background: bool
    ) -> list[Sequence[float]]:
        call = Call(
            request_id=new_request_id(),
            model=model,
            dialect=Dialect.EMBEDDINGS,
            stream=False,
            generation=Generation(inputs=part, vectors=VectorForm.BASE64, cuts_inputs=True).encoded(),
            prompt_tokens_estimate=tokens_estimate(sum(map(text_bytes, part))),
            within_s=self._within_s,
            max_tokens=1,
            priority=Priority.BATCH if background else Priority.INTERACTIVE,
            digest=digest or None,
        )
        payloads: list[bytes] = []
        complete = False
        async with self._turns, aclosing(self._cluster.submit(call)) as events:
            async for event in events:
                complete = isinstance(event, CallFinished)
                if isinstance(event, CallOutput | CallFinished):
                    payloads.append(event.payload)
        if not complete:
            raise InternalError("The answer ended without its closing event.")
        rows = [_row(line, model) for line in b"".join(payloads).splitlines()]
        if len(rows) != len(part):
            raise EngineFailed(f"{model} answered {len(rows)} vectors for {len(part)} texts")
        return rows


def _row(line: bytes, model: ModelName) -> Sequence[float]:
    """One JSON value in the form that was asked for: the base64 of 32-bit floats."""
    try:
        return np.frombuffer(base64.b64decode(msgspec.json.decode(line, type=str)), dtype="<f4").tolist()
    except (msgspec.MsgspecError, ValueError) as error:
        raise EngineFailed(f"{model} answered with what is no vector: {error}") from None
