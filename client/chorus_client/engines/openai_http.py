"""Asking an OpenAI-compatible server over HTTP: the request's body, the answer's stream, refusals as typed errors."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import aiohttp
import msgspec

from chorus_client.engines.openai_stream import CompletionStream
from chorus_proto.errors import (
    ClusterError,
    ContextLengthExceeded,
    EngineFailed,
    EngineUnavailable,
    InvalidRequest,
    UnsupportedParameter,
)
from chorus_proto.generation import Generation, Piece

_MOST_ERROR_BYTES = 65_536


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

    `tell_progress`: ask for the prompt's progress, llama-server's extension (tools/server/README.md).
    """
    body: dict[str, object] = {"model": model, "stream": True, "stream_options": {"include_usage": True}}
    if tell_progress:
        body["return_progress"] = True
    chat = generation.messages is not None
    if chat:
        body["messages"] = generation.messages
    elif generation.prompt is not None:
        body["prompt"] = generation.prompt
    else:
        raise InvalidRequest("neither messages nor a prompt was given", param="messages")
    for field in ("max_tokens", "temperature", "top_p", "seed", "presence_penalty", "frequency_penalty", "logit_bias"):
        value: object = getattr(generation, field)
        if value is not None:
            body[field] = value
    if generation.stop:
        body["stop"] = generation.stop
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
    not know; `generate` then yields `Prefilled` too.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None,
        keep_alive: bool,
        limits: HttpLimits,
        tell_progress: bool = False,
    ) -> None:
        self._base_url = base_url.rstrip("/").removesuffix("/v1")
        self._keep_alive = keep_alive
        self._tell_progress = tell_progress
        self._limits = limits
        self._headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._session: aiohttp.ClientSession | None = None

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0, force_close=not self._keep_alive)
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
                return answer.status, await answer.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise EngineUnavailable(f"no answer from {self._base_url}{path}: {_words(error)}") from None

    async def generate(self, generation: Generation, *, model: str, expect_model: bool) -> AsyncGenerator[Piece, None]:
        """Yield what `Piece` says. Closing it early closes the connection, which makes the server stop.

        `expect_model`: an answer under another model's name is a failure. Raises as `LoadedModel.generate`.
        """
        path, body = request_body(generation, model=model, tell_progress=self._tell_progress)
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
                raise refusal(answer.status, await answer.content.read(_MOST_ERROR_BYTES))
            read = answer.content.readany
            pace = _Pace()
            while not stream.done:
                chunk = await read()
                if not chunk:
                    stream.end()
                pieces = stream.feed(chunk)
                for piece in pieces:
                    yield piece
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


class _Refusal(msgspec.Struct):
    message: str = ""
    type: str | None = None
    param: str | None = None
    code: str | int | None = None
    n_prompt_tokens: int | None = None
    n_ctx: int | None = None


class _RefusalBody(msgspec.Struct):
    error: _Refusal | str


_FIELD = re.compile(r"[Ff]ield '(\w+)'|'(\w+)' (?:to be|must|is)|^(\w+) (?:type )?must\b|\"(\w+)\" (?:must|is)")


def refusal(status: int, body: bytes) -> ClusterError:
    """The typed error for an answer that is not 200."""
    try:
        error = msgspec.json.decode(body, type=_RefusalBody).error
    except msgspec.DecodeError:
        error = body[:300].decode("utf-8", "replace").strip()
    if isinstance(error, str):
        error = _Refusal(message=error)
    words = error.message[:500] or f"HTTP {status}"
    if 300 <= status < 400:
        return EngineFailed(f"the engine answered with a redirect ({status}), which is not followed")
    if status in (400, 413, 422):
        if error.type == "exceed_context_size_error" or error.code == "context_length_exceeded":
            if error.n_prompt_tokens is not None and error.n_ctx is not None:
                words = (
                    f"the prompt has {error.n_prompt_tokens} tokens, but the model's context is {error.n_ctx} tokens"
                )
            return ContextLengthExceeded(words, param="messages")
        found = _FIELD.search(words)
        field = error.param or next((name for name in (found.groups() if found else ()) if name), None)
        return InvalidRequest(f"the engine refused the request: {words}", param=field)
    if status in (401, 403):
        return EngineUnavailable(f"the engine refused our API key ({status})")
    if status in (404, 405, 501):
        return EngineFailed(f"the engine does not serve this ({status}): {words}")
    if status in (429, 503):
        return EngineUnavailable(f"the engine is busy or still loading ({status}): {words}")
    return EngineFailed(f"the engine failed ({status}): {words}")


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
