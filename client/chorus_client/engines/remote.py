"""Any OpenAI-compatible server that somebody else runs (vLLM, LM Studio, a cloud): we only talk to it."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import msgspec
from aiohttp.abc import AbstractResolver

from chorus_client.engines.base import Ending, LoadOptions, LoadProgress, Report
from chorus_client.engines.openai_http import HttpLimits, OpenAiHttp
from chorus_client.engines.watch import until_gone
from chorus_client.footprint import Resident
from chorus_proto.errors import EngineFailed, EngineUnavailable, LoadFailed
from chorus_proto.generation import Generation, PieceBatches
from chorus_proto.ids import ModelName
from chorus_proto.values import EngineKind, ModelFile

_LLAMA_CPP = "llamacpp"
"""Who owns the models of a llama-server, as it says itself; it takes more than OpenAI's API has."""


class RemoteEngine:
    """One base URL, with or without `/v1` (`Engine`). `api_key` is sent as a bearer token and never logged.

    `slots`: how many generations at once we give it where a load does not say. `probe_every_s`: how often a loaded
    model's server is asked whether it is still there. `resolver`: see `OpenAiHttp`.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        slots: int = 8,
        probe_every_s: float = 5.0,
        limits: HttpLimits | None = None,
        resolver: AbstractResolver | None = None,
    ) -> None:
        self._base_url = base_url
        self._http = OpenAiHttp(
            base_url, api_key=api_key, keep_alive=True, limits=limits or HttpLimits(), resolver=resolver
        )
        self._default_slots = slots
        self._probe_every_s = probe_every_s

    @property
    def kind(self) -> EngineKind:
        return EngineKind.REMOTE

    async def inventory(self) -> list[ModelFile]:
        rows = await _models(self._http, self._base_url)
        # The model runs elsewhere: whatever its size, it costs no memory here.
        return [ModelFile(name=ModelName(row.id), file_bytes=0, engine=EngineKind.REMOTE) for row in rows if row.id]

    async def load(self, model: ModelFile, options: LoadOptions, report: Report) -> RemoteModel:
        rows = await _models(self._http, self._base_url)
        found = next((row for row in rows if row.id == model.name), None)
        if found is None:
            raise LoadFailed(f"{self._base_url} does not serve {model.name}, only {', '.join(r.id for r in rows)}")
        self._http.tell_progress = found.owned_by == _LLAMA_CPP
        report(LoadProgress(share=1.0, detail="ready"))
        return RemoteModel(
            self._http,
            model.name,
            slots=options.slots or self._default_slots,
            context_tokens=found.context_tokens,
            probe_every_s=self._probe_every_s,
        )

    async def aclose(self) -> None:
        await self._http.aclose()


class RemoteModel:
    """A model on the other server (`LoadedModel`). Its memory is not ours to measure or free."""

    def __init__(
        self, http: OpenAiHttp, name: ModelName, *, slots: int, context_tokens: int, probe_every_s: float
    ) -> None:
        self._http = http
        self._name = name
        self._slots = slots
        self._context_tokens = context_tokens
        self._probe_every_s = probe_every_s
        self._unloaded = asyncio.Event()

    @property
    def slots(self) -> int:
        return self._slots

    @property
    def context_tokens(self) -> int:
        return self._context_tokens

    async def generate(self, generation: Generation) -> PieceBatches:
        if self._unloaded.is_set():
            raise EngineFailed(f"{self._name} was unloaded")
        # Servers resolve names (`gpt-4o` answers as `gpt-4o-2024-08-06`), so another name is no failure here.
        async with aclosing(self._http.generate(generation, model=self._name, expect_model=False)) as batches:
            async for pieces in batches:
                yield pieces

    async def resident(self) -> Resident | None:
        return None

    async def wait_closed(self) -> Ending:
        return await until_gone(
            self._name, self._unloaded, lambda: self._http.get("/v1/models"), every_s=self._probe_every_s
        )

    async def unload(self, *, force: bool = False) -> None:
        self._unloaded.set()


class _Meta(msgspec.Struct):
    """llama.cpp's extension of a model's row."""

    n_ctx: int | None = None


class _Row(msgspec.Struct):
    id: str = ""
    owned_by: str | None = None
    meta: _Meta | None = None
    max_model_len: int | None = None
    """vLLM's extension: context tokens."""

    @property
    def context_tokens(self) -> int:
        return (self.meta.n_ctx if self.meta else None) or self.max_model_len or 0


class _Rows(msgspec.Struct):
    data: list[_Row] = []


async def _models(http: OpenAiHttp, base_url: str) -> list[_Row]:
    """Raises EngineUnavailable."""
    status, body = await http.get("/v1/models")
    if status != 200:
        raise EngineUnavailable(f"{base_url} answered {status} to GET /v1/models")
    try:
        return msgspec.json.decode(body, type=_Rows).data
    except msgspec.DecodeError as error:
        raise EngineUnavailable(f"{base_url} does not speak OpenAI's API: {error}") from None
