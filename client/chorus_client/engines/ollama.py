"""A running Ollama, by its own client library. The agent owns what is resident: models stay until it unloads them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import TypeVar

import httpx
import msgspec
import ollama

from chorus_client.engines.base import Ending, LoadOptions, LoadProgress, Report
from chorus_client.engines.embedding import vector_line
from chorus_client.engines.ollama_limits import OllamaLimits
from chorus_client.engines.ollama_words import (
    call_part,
    done_of,
    format_of,
    logprobs_of,
    messages_of,
    options_of,
    said,
    think_of,
    tools_of,
)
from chorus_client.engines.watch import until_gone
from chorus_client.footprint import Resident
from chorus_proto.errors import (
    ClusterError,
    EngineFailed,
    EngineUnavailable,
    InsufficientMemory,
    InvalidRequest,
    LoadFailed,
)
from chorus_proto.generation import Delta, Done, Generation, Piece, PieceBatches
from chorus_proto.ids import ModelName
from chorus_proto.values import EngineKind, ModelFile

DEFAULT_URL = "http://127.0.0.1:11434"
T = TypeVar("T")

_FOR_EVER = -1
_EMBEDDERS = frozenset({"bert", "nomic-bert", "nomic-bert-moe"})
"""Families of models that only make embeddings; its list of models says no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PullProgress:
    """One step of a download; the counts are of the layer `digest`, None where Ollama does not tell."""

    status: str
    digest: str = ""
    completed_bytes: int | None = None
    total_bytes: int | None = None


class OllamaEngine:
    """One Ollama server (`Engine`). `slots`: Ollama does not tell its OLLAMA_NUM_PARALLEL, so it is a setting here.

    Every request of a loaded model carries the same `num_ctx`: another one would make Ollama load the model anew.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        slots: int = 1,
        context_tokens: int = 4096,
        limits: OllamaLimits | None = None,
    ) -> None:
        self._url = url
        self._limits = limits or OllamaLimits()
        logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells of every request, and there is one each look
        # How long an answer may take depends on the question: each has its own limit below.
        timeout = httpx.Timeout(None, connect=self._limits.connect_s)
        # Proxies of the environment are for the internet, not for a server on this PC.
        self._client = ollama.AsyncClient(host=url, timeout=timeout, trust_env=False, follow_redirects=False)
        self._default_slots = slots
        self._default_context_tokens = context_tokens

    @property
    def kind(self) -> EngineKind:
        return EngineKind.OLLAMA

    async def inventory(self) -> list[ModelFile]:
        with _as_cluster_errors(self._url):
            async with asyncio.timeout(self._limits.short_answer_s):
                listed = await self._client.list()
        return [
            ModelFile(
                name=ModelName(row.model),
                file_bytes=int(row.size or 0),
                engine=EngineKind.OLLAMA,
                digest=row.digest or "",
                embedding=row.details is not None and (row.details.family or "") in _EMBEDDERS,
            )
            for row in listed.models
            if row.model
        ]

    async def load(self, model: ModelFile, options: LoadOptions, report: Report) -> OllamaModel:
        if model.name not in [file.name for file in await self.inventory()]:
            raise LoadFailed(f"Ollama at {self._url} has no model {model.name}")
        loaded = OllamaModel(
            self._client,
            model.name,
            url=self._url,
            slots=options.slots or self._default_slots,
            context_tokens=options.context_tokens or self._default_context_tokens,
            limits=self._limits,
            embedding=model.embedding,
        )
        report(LoadProgress(share=None, detail=f"Ollama loads {model.name}"))
        try:
            await loaded.make_resident()
        except (InvalidRequest, EngineFailed) as error:
            if "memory" in error.message.lower():
                raise InsufficientMemory(f"{model.name}: {error.message}") from None
            raise LoadFailed(f"{model.name}: {error.message}") from None
        report(LoadProgress(share=1.0, detail="ready"))
        return loaded

    async def pull(self, name: ModelName) -> AsyncGenerator[PullProgress, None]:
        """Fetch a model; closing the generator stops the download. Raises EngineUnavailable, EngineFailed."""
        with _as_cluster_errors(self._url):
            steps = await self._client.pull(name, stream=True)
            lines = _in_time(steps, first_s=self._limits.pull_silence_s, next_s=self._limits.pull_silence_s)
            async with _closing(steps), contextlib.aclosing(lines):
                async for step in lines:
                    yield PullProgress(
                        status=step.status or "",
                        digest=step.digest or "",
                        completed_bytes=step.completed,
                        total_bytes=step.total,
                    )

    async def aclose(self) -> None:
        await self._client.close()


class OllamaModel:
    """A model that Ollama keeps resident for us (`LoadedModel`)."""

    def __init__(
        self,
        client: ollama.AsyncClient,
        name: ModelName,
        *,
        url: str,
        slots: int,
        context_tokens: int,
        limits: OllamaLimits,
        embedding: bool = False,
    ) -> None:
        self._client = client
        self._embedding = embedding
        self._name = name
        self._url = url
        self._slots = slots
        self._context_tokens = context_tokens
        self._limits = limits
        self._unloaded = asyncio.Event()
        self._unloading = asyncio.Lock()

    @property
    def slots(self) -> int:
        return self._slots

    @property
    def context_tokens(self) -> int:
        return self._context_tokens

    async def make_resident(self) -> None:
        """A generation without a prompt only loads (Ollama's API, "Load a model")."""
        options = {"num_ctx": self._context_tokens}
        with _as_cluster_errors(self._url):
            async with asyncio.timeout(self._limits.load_s):
                if self._embedding:
                    await self._client.embed(self._name, "", options=options, keep_alive=_FOR_EVER)
                else:
                    await self._client.generate(self._name, "", options=options, keep_alive=_FOR_EVER)

    async def generate(self, generation: Generation) -> PieceBatches:
        if self._unloaded.is_set():
            raise EngineFailed(f"{self._name} was unloaded")
        if generation.inputs is not None:
            yield await self._vectors(generation)
            return
        options = options_of(generation, context_tokens=self._context_tokens)
        answer_format = format_of(generation)
        logprobs = None if generation.logprobs is None else True
        count = 0
        with _as_cluster_errors(self._url):
            if generation.messages is not None:
                parts: AsyncIterator[ollama.ChatResponse | ollama.GenerateResponse] = await self._client.chat(  # pyright: ignore[reportUnknownMemberType] - its `tools` are untyped
                    self._name,
                    messages_of(generation.messages),
                    tools=tools_of(generation),
                    stream=True,
                    think=think_of(generation),
                    options=options,
                    format=answer_format,
                    logprobs=logprobs,
                    top_logprobs=generation.logprobs or None,
                    keep_alive=_FOR_EVER,
                )
            elif generation.prompt is not None:
                parts = await self._client.generate(
                    self._name,
                    generation.prompt,
                    suffix=generation.suffix or "",
                    stream=True,
                    raw=generation.suffix is None,  # only with its template can Ollama fill in the middle
                    options=options,
                    format=answer_format,
                    logprobs=logprobs,
                    top_logprobs=generation.logprobs or None,
                    keep_alive=_FOR_EVER,
                )
            else:
                raise InvalidRequest("neither messages nor a prompt was given", param="messages")
            thinking = False
            calls = 0
            lines = _in_time(parts, first_s=self._limits.first_token_s, next_s=self._limits.next_token_s)
            async with _closing(parts), contextlib.aclosing(lines):
                async for part in lines:
                    text, thought = said(part)
                    # Thoughts are marked in the text as most models write them themselves.
                    if text and (thought or thinking):
                        text = "</think>" + text
                    if thought:
                        text = ("" if thinking else "<think>") + thought + text
                    thinking = (thinking or bool(thought)) and "</think>" not in text
                    pieces: list[Piece] = []
                    if text:
                        count += 1
                        pieces.append(Delta(text, 1, logprobs_of(part) if part.logprobs else None))
                    if isinstance(part, ollama.ChatResponse) and part.message.tool_calls:
                        made = tuple(call_part(call, calls + k) for k, call in enumerate(part.message.tool_calls))
                        calls += len(made)
                        pieces.append(Delta("", tool_calls=made))
                    if part.done:
                        pieces.append(done_of(part, count, called=calls > 0))
                    if pieces:
                        yield pieces
                    if part.done:
                        return
        raise EngineFailed(f"Ollama ended the answer of {self._name} without its last line")

    async def _vectors(self, generation: Generation) -> list[Piece]:
        with _as_cluster_errors(self._url):
            async with asyncio.timeout(self._limits.first_token_s):
                told = await self._client.embed(
                    self._name,
                    generation.inputs or (),
                    truncate=generation.cuts_inputs,
                    options={"num_ctx": self._context_tokens},
                    dimensions=generation.dimensions,
                    keep_alive=_FOR_EVER,
                )
        found, wanted = len(told.embeddings), len(generation.inputs or ())
        if found != wanted:
            raise EngineFailed(f"Ollama sent {found} embeddings for {wanted} texts")
        lines: list[Piece] = [vector_line(msgspec.json.encode(one), generation) for one in told.embeddings]
        return [*lines, Done(finish_reason="stop", prompt_tokens=told.prompt_eval_count or 0)]

    async def resident(self) -> Resident | None:
        """What Ollama says the model holds, in RAM and VRAM together."""
        with _as_cluster_errors(self._url):
            async with asyncio.timeout(self._limits.short_answer_s):
                running = await self._client.ps()
        sizes = (int(row.size) for row in running.models if row.model == self._name and row.size)
        return next((Resident(total_bytes=size) for size in sizes), None)

    async def wait_closed(self) -> Ending:
        """A model that Ollama dropped is loaded by the next request, so only Ollama's own end counts."""
        return await until_gone(self._name, self._unloaded, self.resident, every_s=self._limits.probe_every_s)

    async def unload(self, *, force: bool = False) -> None:
        async with self._unloading:
            if self._unloaded.is_set():
                return
            self._unloaded.set()
            # An Ollama that is gone holds nothing any more.
            with contextlib.suppress(EngineUnavailable), _as_cluster_errors(self._url):
                async with asyncio.timeout(self._limits.unload_s):
                    await self._client.generate(self._name, "", keep_alive=0)
                    # Ollama frees the memory in the background and tells nobody when it has.
                    while any(row.model == self._name for row in (await self._client.ps()).models):  # noqa: ASYNC110 - no event exists
                        await asyncio.sleep(0.05)


async def _in_time(parts: AsyncIterator[T], *, first_s: float, next_s: float) -> AsyncGenerator[T, None]:
    """The lines as they come. Raises EngineFailed when one is late."""
    limit_s = first_s
    while True:
        try:
            async with asyncio.timeout(limit_s):
                part = await anext(parts, None)
        except TimeoutError:
            raise EngineFailed(f"nothing came from Ollama for {limit_s:g} s") from None
        if part is None:
            return
        yield part
        limit_s = next_s


@contextlib.asynccontextmanager
async def _closing(parts: AsyncIterator[object]) -> AsyncGenerator[None, None]:
    """Close the library's stream, and with it the connection, which makes Ollama stop."""
    try:
        yield
    finally:
        if isinstance(parts, AsyncGenerator):
            await parts.aclose()


@contextlib.contextmanager
def _as_cluster_errors(url: str):
    try:
        yield
    except ollama.ResponseError as error:
        raise _error_of(error) from None
    except (ConnectionError, httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise EngineUnavailable(f"Ollama at {url} cannot be reached: {error}") from None
    except (httpx.HTTPError, TimeoutError, ValueError) as error:
        # ValueError: an answer that is no JSON or lacks fields (pydantic).
        raise EngineFailed(f"Ollama broke off: {str(error)[:300] or type(error).__name__}") from None


def _error_of(error: ollama.ResponseError) -> ClusterError:
    words = f"Ollama refused: {error.error[:500]}"
    if error.status_code in (400, 413, 422):
        return InvalidRequest(words)
    if error.status_code in (429, 503):
        return EngineUnavailable(words)
    return EngineFailed(words)
