"""Several runs that make one answer: the choices of OpenAI's `n`, or a completion's prompts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TypeAlias, cast

import msgspec

from chorus_proto.cluster import Call, CallEvent, CallFinished, CallOutput, CallStarted, CallWaiting
from chorus_proto.dialects.openai_answer import STREAM_END, SYSTEM_FINGERPRINT
from chorus_proto.dialects.parsed import ParsedRequest
from chorus_proto.errors import ClusterError, InternalError
from chorus_proto.ids import RequestId
from chorus_proto.values import Dialect, Usage

Submit: TypeAlias = Callable[[Call], AsyncGenerator[CallEvent, None]]
Json: TypeAlias = dict[str, object]

_PENDING_EVENTS = 64
"""Of all runs together; the runs pause beyond it."""

_encode = msgspec.json.Encoder().encode


def runs_of(parsed: ParsedRequest, call: Call) -> list[Call]:
    """One call for each run, in the order of their choices; `call` is the first of them."""
    runs: list[Call] = []
    for number, generation in enumerate((parsed.generation, *parsed.others)):
        named = msgspec.structs.replace(generation, answer_id=call.request_id)
        request_id = RequestId(f"{call.request_id}-{number}")
        runs.append(replace(call, request_id=request_id, generation=named.encoded()))
    return runs


async def joined(parsed: ParsedRequest, calls: Sequence[Call], submit: Submit) -> AsyncGenerator[CallEvent, None]:
    """The runs' events as those of one streamed answer, as they come. The first failure ends them all."""
    events: asyncio.Queue[tuple[int, CallEvent | ClusterError]] = asyncio.Queue(_PENDING_EVENTS)

    async def run(number: int, call: Call) -> None:
        try:
            async with aclosing(submit(call)) as found:
                async for event in found:
                    await events.put((number, event))
        except ClusterError as error:
            await events.put((number, error))

    tasks = [asyncio.create_task(run(number, call), name=f"choice:{number}") for number, call in enumerate(calls)]
    finished: dict[int, CallFinished] = {}
    started = False
    try:
        while len(finished) < len(calls):
            number, event = await events.get()
            match event:
                case CallWaiting():
                    if not started:
                        yield event
                case CallStarted():
                    if not started:
                        yield event
                    started = True
                case CallOutput():
                    yield event
                case CallFinished():
                    finished[number] = event
                    if event.payload:
                        yield CallOutput(event.payload, 0)
                case ClusterError():
                    raise event
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    usage = usage_of_all(parsed, [finished[number].usage for number in range(len(calls))])
    end = _usage_chunk(parsed, calls[0], usage) if parsed.generation.include_usage else b""
    yield replace(finished[0], usage=usage, payload=end + STREAM_END)


def usage_of_all(parsed: ParsedRequest, runs: Sequence[Usage]) -> Usage:
    """A prompt that several runs share counts once, as OpenAI counts it."""
    prompts = {run.prompt: usage for run, usage in zip((parsed.generation, *parsed.others), runs, strict=True)}.values()
    return Usage(
        prompt_tokens=sum(usage.prompt_tokens for usage in prompts),
        completion_tokens=sum(usage.completion_tokens for usage in runs),
        cached_tokens=sum(usage.cached_tokens for usage in prompts),
    )


def _usage_chunk(parsed: ParsedRequest, call: Call, usage: Usage) -> bytes:
    chat = parsed.dialect is Dialect.OPENAI_CHAT
    answer_id = call.request_id.rpartition("-")[0]
    chunk: Json = {
        "id": f"{'chatcmpl' if chat else 'cmpl'}-{answer_id}",
        "created": int(time.time()),
        "model": call.model,
        "system_fingerprint": SYSTEM_FINGERPRINT,
        "object": "chat.completion.chunk" if chat else "text_completion",
        "choices": [],
        "usage": _usage_object(usage),
    }
    return b"data: %b\n\n" % _encode(chunk)


def _usage_object(usage: Usage) -> Json:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def merged(parsed: ParsedRequest, bodies: Sequence[bytes], usages: Sequence[Usage]) -> bytes:
    """One body of those that the runs ended with. Raises InternalError when one is no answer."""
    try:
        answers = [msgspec.json.decode(body, type=dict[str, object]) for body in bodies]
        choices = [choice for answer in answers for choice in msgspec.convert(answer["choices"], list[object])]
        told = [msgspec.convert(answer["usage"], dict[str, object]) for answer in answers]
    except (msgspec.MsgspecError, KeyError) as error:
        raise InternalError(f"One of the answers cannot be read: {error}") from None
    usage = _usage_object(usage_of_all(parsed, usages))
    for name in ("completion_tokens_details", "thinking_tokens", "channel_tokens"):
        if all(name in one for one in told):
            usage[name] = _sum([one[name] for one in told])
    whole = {name: value for name, value in answers[0].items() if name != "timings"}
    return _encode(whole | {"choices": choices, "usage": usage})


def _sum(counts: Iterable[object]) -> object:
    """Numbers, or objects of numbers under the same names."""
    found = list(counts)
    if isinstance(found[0], dict):
        objects = cast("list[dict[str, int]]", found)
        return {name: sum(one.get(name, 0) for one in objects) for name in objects[0]}
    return sum(cast("list[int]", found))
