"""Embeddings from one engine that speaks OpenAI's HTTP API, as llama-server does: the embedded model's own process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import aiohttp
import msgspec
import numpy as np

from chorus_http.rag.embedder import Identity, Purpose, prefixed, unit_rows
from chorus_http.rag.engine_host import Address, EngineHost
from chorus_http.rag.store import Vectors
from chorus_proto.errors import DeadlineExceeded, EngineFailed, EngineUnavailable

log = logging.getLogger(__name__)

TEXTS_EACH = 16
_ATTEMPTS = 2
_LEAST_CHARACTERS = 16
_TOO_LONG = ("too large", "exceed", "too long", "larger than")
"""What llama-server says of a text that does not fit the model; it does not cut it itself."""


class _Row(msgspec.Struct):
    index: int
    embedding: list[float]


class _Answer(msgspec.Struct):
    data: list[_Row]


class _Refusal(msgspec.Struct):
    message: str = ""


class _Refused(msgspec.Struct):
    error: _Refusal = msgspec.field(default_factory=_Refusal)


class _TooLong(Exception):
    pass


class EngineEmbedder:
    """See `Embedder`."""

    def __init__(self, host: EngineHost, *, within_s: float, at_once: int = 2) -> None:
        self._host = host
        self._within_s = within_s
        self._turns = asyncio.Semaphore(at_once)
        self._identity: Identity | None = None

    async def identity(self) -> Identity:
        if self._identity is None:
            address = await self._host.address()
            (row,) = await self._answered(["dimensions"])
            self._identity = Identity(model=address.model, digest=address.digest, dimensions=len(row))
        return self._identity

    async def embed(self, texts: Sequence[str], purpose: Purpose) -> Vectors:
        identity = await self.identity()
        wanted = prefixed(texts, identity.model, purpose)
        rows: list[Sequence[float]] = []
        for at in range(0, len(wanted), TEXTS_EACH):
            rows += await self._rows(wanted[at : at + TEXTS_EACH])
        if not rows:
            return np.empty((0, identity.dimensions), dtype=np.float32)
        return unit_rows(rows, model=identity.model)

    async def close(self) -> None:
        await self._host.close()

    async def _rows(self, texts: list[str]) -> list[Sequence[float]]:
        try:
            return await self._answered(texts)
        except _TooLong:
            if len(texts) > 1:
                return [row for text in texts for row in await self._rows([text])]
            if len(texts[0]) <= _LEAST_CHARACTERS:
                raise EngineFailed("The embedding model takes no text, however short.") from None
            return await self._rows([texts[0][: len(texts[0]) * 3 // 4]])

    async def _answered(self, texts: list[str]) -> list[Sequence[float]]:
        async with self._turns:
            for attempt in range(1, _ATTEMPTS + 1):
                try:
                    async with asyncio.timeout(self._within_s):
                        return await self._ask(await self._host.address(), texts)
                except TimeoutError:
                    await self._host.failed()
                    raise DeadlineExceeded(f"The embedding model gave no answer within {self._within_s:g} s.") from None
                except (aiohttp.ClientError, OSError) as error:
                    log.warning("embedding %d texts, attempt %d: %r", len(texts), attempt, error)
                    await self._host.failed()
            raise EngineUnavailable("The embedding model's process ends instead of answering; its log says why.")

    async def _ask(self, address: Address, texts: list[str]) -> list[Sequence[float]]:
        # A connection for each request: llama.cpp's server drops some that are used again.
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session,
            session.post(
                f"{address.url}/v1/embeddings",
                data=msgspec.json.encode({"model": address.model, "input": texts}),
                headers={"authorization": f"Bearer {address.api_key}", "content-type": "application/json"},
            ) as response,
        ):
            raw = await response.read()
            if response.status == 200:
                return _rows_of(raw, len(texts), address.model)
            said = _message(raw)
            if any(words in said.lower() for words in _TOO_LONG):
                raise _TooLong
            raise EngineFailed(f"{address.model} refused to embed ({response.status}): {said[:300]}")


def _rows_of(raw: bytes, count: int, model: str) -> list[Sequence[float]]:
    try:
        answer = msgspec.json.decode(raw, type=_Answer)
    except msgspec.MsgspecError as error:
        raise EngineFailed(f"{model} answered with no list of embeddings: {error}") from None
    rows = sorted(answer.data, key=lambda row: row.index)
    if len(rows) != count:
        raise EngineFailed(f"{model} answered {len(rows)} embeddings for {count} texts")
    return [row.embedding for row in rows]


def _message(raw: bytes) -> str:
    try:
        return msgspec.json.decode(raw, type=_Refused).error.message
    except msgspec.MsgspecError:
        return raw.decode("utf-8", "replace")
