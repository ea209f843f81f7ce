"""Asking an OpenAI-compatible server over HTTP: the request's body, the answer's stream, refusals as typed errors."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import aiohttp
import msgspec
from aiohttp.abc import AbstractResolver

from chorus_client.engines.embedding import (
    MOST_BYTES,
    as_embedding_refusal,
    cut,
    embeddings_request,
    most_tokens,
    tokens_request,
    vectors_of,
)
from chorus_client.engines.infill import INFILL_PATH, as_infill_refusal, infill_request
from chorus_client.engines.openai_stream import CompletionStream
from chorus_client.engines.ranking import rank_request, ranks_of
from chorus_client.engines.refusals import refusal
from chorus_proto.errors import (
    ContextLengthExceeded,
    EngineFailed,
    EngineUnavailable,
    InvalidRequest,
    UnsupportedParameter,
)
from chorus_proto.generation import Effort, Generation, Piece, PieceBatches

_MOST_ERROR_BYTES = 65_536
_MOST_ANSWER_BYTES = 8 * 1024 * 1024
"""Of an answer that is no generation: a list of models."""

_SAMPLING = ("max_tokens", "temperature", "top_p", "seed", "presence_penalty", "frequency_penalty", "logit_bias")
_LLAMA_CPPS = ("top_k", "min_p", "typical_p", "repeat_penalty", "repeat_last_n")


_TELL_STOP: Mapping[str, object] = {"verbose": True, "response_fields": ["stopping_word"]}
"""Has a llama-server say which stop sequence ended the answer, and nothing else of all that it could say then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """How long one answer may keep us waiting.

    The watchdog (watchdog.py) calls an engine hung; its tokens' limits here are the backstop of those whom nobody
    watches, and looser.
    """

    connect_s: float = 3.0
    first_token_s: float = 900.0
    next_token_s: float = 900.0
    short_answer_s: float = 10.0
    """For everything that is not a generation."""


def request_body(generation: Generation, *, model: str, tell_progress: bool = False) -> tuple[str, bytes]:
    """The path and the JSON body of a streamed request. Raises UnsupportedParameter, InvalidRequest.

    `tell_progress`: ask for the prompt's progress, llama-server's extension (tools/server/README.md); such a server
    also takes llama.cpp's own sampling, and is told by the chat template's arguments how long to think.
    """
    if generation.suffix is not None and tell_progress:
        return infill_request(generation)
    body: dict[str, object] = {"model": model, "stream": True, "stream_options": {"include_usage": True}}
    if tell_progress:
        body["return_progress"] = True
    elif own := [field for field in _LLAMA_CPPS if getattr(generation, field) is not None]:
        raise UnsupportedParameter(f"OpenAI's API, by which this model is reached, has no {own[0]}", param=own[0])
    chat = generation.messages is not None
    if chat:
        body["messages"] = generation.messages
    elif generation.prompt is not None:
        body["prompt"] = generation.prompt
    else:
        raise InvalidRequest("neither messages nor a prompt was given", param="messages")
    for field in (*_SAMPLING, *_LLAMA_CPPS):
        value: object = getattr(generation, field)
        if value is not None:
            body[field] = value
    if generation.stop:
        body["stop"] = generation.stop
        if chat and tell_progress:
            body |= _TELL_STOP
    if generation.logprobs is not None:
        if chat:
            body["logprobs"] = True
            if generation.logprobs > 0:
                body["top_logprobs"] = generation.logprobs
        else:
            body["logprobs"] = generation.logprobs
    if generation.response_format is not None:
        if not chat:
            raise UnsupportedParameter("response_format works for chat only", param="response_format")
        body["response_format"] = msgspec.Raw(generation.response_format.encode())
    if generation.ignore_end:
        body["ignore_eos"] = True
    if generation.suffix is not None:
        body["suffix"] = generation.suffix
    if generation.tools is not None:
        body["tools"] = msgspec.Raw(generation.tools.encode())
        if generation.tool_choice is not None:
            body["tool_choice"] = msgspec.Raw(generation.tool_choice.encode())
        if generation.parallel_tool_calls is not None:
            body["parallel_tool_calls"] = generation.parallel_tool_calls
    effort = generation.reasoning_effort
    if effort is not None and tell_progress:
        thinks = effort is not Effort.NONE
        arguments: dict[str, object] = {"enable_thinking": thinks}
        body["chat_template_kwargs"] = arguments | ({"reasoning_effort": effort} if thinks else {})
    elif effort is not None:
        body["reasoning_effort"] = effort
    return ("/v1/chat/completions" if chat else "/v1/completions"), msgspec.json.encode(body)


READ_GAP_S = 0.008
"""Reads of an answer whose tokens come faster than this are spaced by it, half a frame of a 60 Hz display.

Waking four processes for every token of a fast engine takes the cores that it computes on. Measured on two cores with
the tiny model at 2,900 tokens/s: 0.67 of the engine's own speed came through without gaps, 0.96 with them.
"""

QUICK_READS = 16
"""So many quick reads in a row come before the first gap: a short answer never waits for one."""

SMALL_READ_PIECES = 64
"""A read that brought more deltas than this was worth its cost."""


class OpenAiHttp:
    """One server. `base_url` is without `/v1`. Close it with `aclose`.

    `keep_alive` False: a new connection for each request. llama.cpp drops 6-13 % of the requests that reuse a
    connection directly after a streamed answer. `tell_progress`: it is a llama-server, or ignores fields that it does
    not know; `generate` then yields `Prefilled` too. `ranks`: its model ranks documents, and makes no vectors.
    `resolver`: decides which addresses a name may have.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None,
        keep_alive: bool,
        limits: HttpLimits,
        tell_progress: bool = False,
        ranks: bool = False,
        resolver: AbstractResolver | None = None,
    ) -> None:
        self._resolver = resolver
        self._base_url = base_url.rstrip("/").removesuffix("/v1")
        self._keep_alive = keep_alive
        self.tell_progress = tell_progress
        """May be set once it is known whom this talks to."""
        self.ranks = ranks
        self._limits = limits
        self._headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._session: aiohttp.ClientSession | None = None

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0, force_close=not self._keep_alive, resolver=self._resolver)
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._limits.connect_s)
            self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, headers=self._headers)
        return self._session

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def get(self, path: str) -> tuple[int, bytes]:
        """Status and body. Raises EngineUnavailable."""
        try:
            async with (
                asyncio.timeout(self._limits.short_answer_s),
                self._connected().get(self._base_url + path, allow_redirects=False) as answer,
            ):
                return answer.status, await _whole(answer)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise EngineUnavailable(f"no answer from {self._base_url}{path}: {_words(error)}") from None

    async def generate(self, generation: Generation, *, model: str, expect_model: bool) -> PieceBatches:
        """Yield what `Piece` says, in batches. Closing it early closes the connection, which makes the server stop.

        `expect_model`: an answer under another model's name is a failure. Raises as `LoadedModel.generate`.
        """
        if generation.inputs is not None:
            yield await (self._rank if self.ranks and generation.ranks else self._embed)(generation, model)
            return
        path, body = request_body(generation, model=model, tell_progress=self.tell_progress)
        stream = CompletionStream(model=model if expect_model else None)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._limits.first_token_s
        try:
            answer = await self._post(path, body, deadline=deadline)
        except TimeoutError:
            raise EngineFailed(f"the engine sent nothing within {self._limits.first_token_s:g} s") from None
        silence = _Silence(loop, answer, limit_s=self._limits.first_token_s)
        try:
            if answer.status != 200:
                error = refusal(answer.status, await answer.content.read(_MOST_ERROR_BYTES))
                raise as_infill_refusal(answer.status, error) if path == INFILL_PATH else error
            read = answer.content.readany
            pace = _Pace()
            while not stream.done:
                chunk = await read()
                if not chunk:
                    stream.end()
                pieces = stream.feed(chunk)
                if pieces:
                    yield pieces
                if stream.failure is not None:
                    raise stream.failure
                if pieces:  # comments and empty events do not count as progress
                    limits = self._limits
                    silence.broken(limit_s=limits.next_token_s if stream.answering else limits.first_token_s)
                if pace.is_wasteful(loop.time(), len(pieces)):
                    await _gathered(answer, READ_GAP_S)
        except (aiohttp.ClientError, OSError, RuntimeError) as error:
            # aiohttp says "Connection closed." as a bare RuntimeError when our own side closes while we read.
            if silence.too_long:
                raise EngineFailed(f"no token came from the engine for {silence.limit_s:g} s") from None
            raise EngineFailed(f"the engine broke off its answer: {_words(error)}") from None
        finally:
            silence.end()
            if self._keep_alive and stream.done:
                answer.release()
            else:
                answer.close()

    async def _rank(self, generation: Generation, model: str) -> list[Piece]:
        path, body = rank_request(generation, model=model)
        return ranks_of(await self._told(path, body, model=model), generation)

    async def _embed(self, generation: Generation, model: str) -> list[Piece]:
        if self.ranks:
            raise InvalidRequest(f"model {model} ranks documents and makes no embeddings", param="model")
        inputs = list[str | list[int]](generation.inputs or ())
        try:
            return vectors_of(await self._embeddings(generation, inputs, model), generation)
        except ContextLengthExceeded as error:
            most = most_tokens(error)
            if most is None or not generation.cuts_inputs:
                raise
        for place, text in enumerate(generation.inputs or ()):
            if len(text) > most:  # no token is shorter than a character
                inputs[place] = cut(await self._told(*tokens_request(text), model=model), most)
        return vectors_of(await self._embeddings(generation, inputs, model), generation)

    async def _embeddings(self, generation: Generation, inputs: Sequence[str | list[int]], model: str) -> bytes:
        path, body = embeddings_request(generation, inputs, model=model, shortens=not self.tell_progress)
        return await self._told(path, body, model=model)

    async def _told(self, path: str, body: bytes, *, model: str) -> bytes:
        """The whole answer to a question about embeddings. Raises its refusal."""
        within_s = self._limits.first_token_s
        try:
            async with asyncio.timeout(within_s) as limit:
                answer = await self._post(path, body, deadline=limit.when() or 0.0)
                try:
                    told = await _whole(answer, most_bytes=MOST_BYTES)
                finally:
                    answer.close()
        except TimeoutError:
            raise EngineFailed(f"the engine made no embeddings within {within_s:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise EngineFailed(f"the engine broke off its answer: {_words(error)}") from None
        if answer.status != 200:
            raise as_embedding_refusal(answer.status, refusal(answer.status, told), model=model)
        return told

    async def _post(self, path: str, body: bytes, *, deadline: float) -> aiohttp.ClientResponse:
        """The answer's head. A kept-alive connection that the server had closed meanwhile is tried once anew."""
        for attempt in (1, 2):
            try:
                async with asyncio.timeout_at(deadline):
                    return await self._connected().post(self._base_url + path, data=body, allow_redirects=False)
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
                raise EngineUnavailable(f"{self._base_url} cannot be reached: {_words(error)}") from None
            except aiohttp.ClientError as error:
                if attempt == 2 or not self._keep_alive:
                    raise EngineFailed(f"the engine closed the connection: {_words(error)}") from None
        raise AssertionError("unreachable")


class _Pace:
    """Tells whether an answer has come in many small reads for a while; short answers never wait for a gap."""

    def __init__(self) -> None:
        self._read_at_s = 0.0
        self._quick_reads = 0

    def is_wasteful(self, now_s: float, pieces: int) -> bool:
        quick = now_s - self._read_at_s < 2 * READ_GAP_S and pieces <= SMALL_READ_PIECES
        self._quick_reads = self._quick_reads + 1 if quick else 0
        self._read_at_s = now_s
        return self._quick_reads > QUICK_READS


async def _gathered(answer: aiohttp.ClientResponse, gap_s: float) -> None:
    """Leave what comes in the kernel for `gap_s`, so that the next read takes many tokens at once."""
    transport = None if answer.connection is None else answer.connection.transport
    if transport is None or transport.is_closing():
        return
    transport.pause_reading()
    try:
        await asyncio.sleep(gap_s)
    finally:
        if not transport.is_closing():
            transport.resume_reading()


class _Silence:
    """Closes an answer on which nothing came for too long. One timer for many reads: a timeout each costs 15 us."""

    def __init__(self, loop: asyncio.AbstractEventLoop, answer: aiohttp.ClientResponse, *, limit_s: float) -> None:
        self._loop = loop
        self._answer = answer
        self.limit_s = limit_s
        self.too_long = False
        self._deadline = loop.time() + limit_s
        self._timer = loop.call_at(self._deadline, self._look)

    def broken(self, *, limit_s: float) -> None:
        """Something came; now wait for at most `limit_s`."""
        self._deadline = self._loop.time() + limit_s
        if limit_s != self.limit_s:
            self.limit_s = limit_s
            self._timer.cancel()
            self._timer = self._loop.call_at(self._deadline, self._look)

    def _look(self) -> None:
        if self._loop.time() < self._deadline:
            self._timer = self._loop.call_at(self._deadline, self._look)
        else:
            self.too_long = True
            self._answer.close()

    def end(self) -> None:
        self._timer.cancel()


async def _whole(answer: aiohttp.ClientResponse, *, most_bytes: int = _MOST_ANSWER_BYTES) -> bytes:
    """Raises ClientPayloadError for more than anybody needs to say."""
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > most_bytes:
            raise aiohttp.ClientPayloadError(f"the answer is over {most_bytes >> 20} MiB")
    return bytes(body)


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
