"""One answer of the scripted engine, paced and with its faults, as llama-server's server-sent events."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import islice

import msgspec

from chorus_client.scripted_faults import Faults
from chorus_client.scripted_text import scripted_tokens

_TOKENS_PER_WRITE = 64
_OUT_OF_MEMORY_CODE = 137


class _Message(msgspec.Struct):
    content: str | None = ""


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False


class ScriptedRequest(msgspec.Struct):
    messages: list[_Message] | None = None
    prompt: str | None = None
    max_tokens: int | None = None
    stop: list[str] | str = []
    stream: bool = False
    ignore_eos: bool = False
    return_progress: bool = False
    stream_options: _StreamOptions | None = None

    @property
    def words(self) -> str:
        """What the answer is computed from."""
        return (self.messages[-1].content or "") if self.messages else (self.prompt or "")

    @property
    def prompt_tokens(self) -> int:
        texts = [message.content or "" for message in self.messages] if self.messages else [self.prompt or ""]
        return max(1, sum(len(text.split()) for text in texts))


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptedSettings:
    alias: str
    api_key: str | None
    slots: int
    context_tokens: int
    """Of each slot."""
    ttft_s: float
    tokens_per_s: float
    load_s: float
    answer_tokens: int


class ScriptedAnswer:
    """One answer, paced, as bytes of server-sent events."""

    def __init__(self, asked: ScriptedRequest, faults: Faults, settings: ScriptedSettings, *, model: str) -> None:
        self._asked = asked
        self._faults = faults
        self._settings = settings
        self._model = model
        self._chat = asked.messages is not None
        most = asked.max_tokens if asked.max_tokens is not None and asked.max_tokens >= 0 else None
        full = settings.answer_tokens if not asked.ignore_eos else settings.context_tokens - asked.prompt_tokens
        # Never more than the context, whatever was asked for: the answer is made before it is sent.
        self._count = full if most is None else min(most, max(full, 0))
        self._reason = "length" if most is not None and most <= self._count and most < full else "stop"
        if asked.ignore_eos:
            self._reason = "length"
        self._tokens = list(islice(scripted_tokens(asked.words), self._count))
        self._stopped_at: str | None = None
        self._cut_at_stop()
        self._started = time.monotonic()
        self._first_at = self._started

    def _cut_at_stop(self) -> None:
        stops = [self._asked.stop] if isinstance(self._asked.stop, str) else self._asked.stop
        text = "".join(self._tokens)
        found = [(at, stop) for stop in stops if stop and (at := text.find(stop)) >= 0]
        if not found:
            return
        left, self._stopped_at = min(found)
        kept = list[str]()
        for token in self._tokens:
            if left <= 0:
                break
            kept.append(token[:left])
            left -= len(token)
        self._tokens, self._reason = kept, "stop"

    async def events(self) -> AsyncIterator[bytes]:
        """Chunks to write; tokens that are due together come together."""
        faults = self._faults
        async for chunk in self._prefill():
            yield chunk
        self._first_at = time.monotonic()
        if faults.huge_line:
            yield b": " + b"x" * faults.huge_line + b"\n\n"
        if self._chat:
            yield self._event({"delta": {"role": "assistant", "content": None}, "finish_reason": None})
        head, tail = self._frame()
        rate = faults.tps if faults.tps is not None else self._settings.tokens_per_s
        breaks = {k for k in (faults.hang_after, faults.crash_after, faults.oom_at) if k is not None}
        sent = 0
        while True:
            if sent in breaks:
                await self._break_down(sent)
            if sent >= len(self._tokens):
                break
            last = min(len(self._tokens), sent + _TOKENS_PER_WRITE, *(k for k in breaks if k > sent), 1 << 40)
            if rate:
                due = self._first_at + (sent + self._lateness(sent)) / rate
                await asyncio.sleep(due - time.monotonic())
                last = min(last, max(sent + 1, int((time.monotonic() - self._first_at) * rate) + 1))
            batch = self._tokens[sent:last]
            if faults.split_utf8 or faults.bad_utf8 is not None:
                for k, token in enumerate(batch, start=sent):
                    for part in self._broken(k, token):
                        yield head + part + tail
            else:
                yield b"".join([head + token.encode() + tail for token in batch])
            sent = last
            if not rate:
                await asyncio.sleep(0)
        yield self._end()

    async def _prefill(self) -> AsyncIterator[bytes]:
        faults, of_tokens = self._faults, self._asked.prompt_tokens
        done = 0 if faults.prefill_tps else of_tokens
        if self._asked.return_progress:
            yield self._progress(done)
        await asyncio.sleep(faults.ttft if faults.ttft is not None else self._settings.ttft_s)
        while faults.prefill_tps and done < of_tokens:
            batch = min(faults.prefill_batch, of_tokens - done)
            await asyncio.sleep(batch / faults.prefill_tps)
            done += batch
            if self._asked.return_progress:
                yield self._progress(done)

    def _progress(self, done: int) -> bytes:
        choice: dict[str, object] = {"delta": {"role": "assistant", "content": None}} if self._chat else {"text": ""}
        total = self._asked.prompt_tokens
        told = {"total": total, "cache": 0, "processed": done, "time_ms": int((time.monotonic() - self._started) * 1e3)}
        return self._event({**choice, "finish_reason": None}, prompt_progress=told)

    def _lateness(self, k: int) -> float:
        """A share of the interval, different for each token and the same each time."""
        return self._faults.jitter * (k * 0.618034 % 1.0)

    async def _break_down(self, sent: int) -> None:
        faults = self._faults
        # What was sent must leave the process first: give the loop a turn to flush it.
        await asyncio.sleep(0.02)
        if sent == faults.oom_at:
            die_out_of_memory()
        if sent == faults.crash_after:
            print(f"scripted crash after {sent} tokens", file=sys.stderr, flush=True)
            os._exit(faults.exit_code)
        await asyncio.Event().wait()

    def _broken(self, k: int, token: str) -> list[bytes]:
        raw = token.encode()
        if k == self._faults.bad_utf8:
            return [b"\xff" + raw]
        wide = next((at for at, byte in enumerate(raw) if byte >= 0x80), None)
        if self._faults.split_utf8 and wide is not None:
            return [raw[: wide + 1], raw[wide + 1 :]]
        return [raw]

    def _event(self, choice: dict[str, object], **more: object) -> bytes:
        return b"data: " + json.dumps(self._body(choice, **more), separators=(",", ":")).encode() + b"\n\n"

    def _body(self, choice: dict[str, object] | None, **more: object) -> dict[str, object]:
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        choices = [] if choice is None else [{"index": 0, **choice}]
        return {"choices": choices, "created": int(time.time()), "id": "scripted", "model": self._model,
                "object": kind, **more}  # fmt: skip

    def _frame(self) -> tuple[bytes, bytes]:
        """What stands before and after a token's text; no word needs escaping in JSON."""
        choice: dict[str, object] = {"delta": {"content": "\0"}} if self._chat else {"text": "\0"}
        head, _, tail = self._event({**choice, "finish_reason": None}).partition(b"\\u0000")
        return head, tail

    def _end(self) -> bytes:
        usage, timings = self._counts()
        choice: dict[str, object] = {"finish_reason": self._reason, "stop_reason": self._stopped_at}
        choice |= {"delta": {}} if self._chat else {"text": ""}
        end = self._event(choice)
        closing = self._body(None, usage=usage, timings=timings)
        end += b"data: " + json.dumps(closing).encode() + b"\n\n"
        done = b"data: [DONE]\n\n"
        return end + (b"" if self._faults.no_done else done) + (done if self._faults.dup_done else b"")

    def _counts(self) -> tuple[dict[str, object], dict[str, object]]:
        prompt_n, predicted_n = self._asked.prompt_tokens, len(self._tokens)
        now = time.monotonic()
        prefill_s, decode_s = max(1e-6, self._first_at - self._started), max(1e-6, now - self._first_at)
        usage: dict[str, object] = {
            "prompt_tokens": prompt_n,
            "completion_tokens": predicted_n,
            "total_tokens": prompt_n + predicted_n,
            "prompt_tokens_details": {"cached_tokens": 0},
        }
        timings: dict[str, object] = {
            "cache_n": 0,
            "prompt_n": prompt_n,
            "prompt_per_second": prompt_n / prefill_s,
            "predicted_n": predicted_n,
            "predicted_per_second": predicted_n / decode_s,
        }
        return usage, timings

    def whole(self) -> dict[str, object]:
        """The answer to a request that did not ask for a stream."""
        usage, timings = self._counts()
        text = "".join(self._tokens)
        said: dict[str, object] = {"message": {"role": "assistant", "content": text}} if self._chat else {"text": text}
        return self._body({**said, "finish_reason": self._reason}, usage=usage, timings=timings)


def die_out_of_memory() -> None:
    print("terminate called after throwing an instance of 'std::bad_alloc'", file=sys.stderr, flush=True)
    os._exit(_OUT_OF_MEMORY_CODE)
