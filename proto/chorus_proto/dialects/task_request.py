"""What POST /v1/execute and POST /api/model/generate take: one task for one model, which may be left to the cluster."""

from __future__ import annotations

from typing import Annotated

import msgspec

from chorus_proto.dialects.fields import ModelText, Temperature, Text, TokenLimit, TopP, Unchecked, read_fields
from chorus_proto.dialects.openai_messages import read_messages
from chorus_proto.dialects.parsed import ParsedRequest, check_model_name, text_bytes, tokens_estimate
from chorus_proto.dialects.response_format import read_response_format
from chorus_proto.dialects.strict_json import load_object
from chorus_proto.errors import InvalidRequest
from chorus_proto.generation import Generation, Message
from chorus_proto.ids import ModelName
from chorus_proto.values import Dialect, RoutingStrategy

Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]
StopText = Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]


class TaskRequest(msgspec.Struct):
    """One of `task`, `prompt` and `messages` is needed; the first two mean the same."""

    task: Text | None = None
    prompt: Text | None = None
    messages: Unchecked = None
    system: Text | None = None
    model: ModelText | None = None
    max_tokens: TokenLimit | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    seed: int | None = None
    stop: Annotated[list[StopText], msgspec.Meta(max_length=16)] | None = None
    response_format: Unchecked = None
    stream: bool | None = None
    timeout_s: Seconds | None = None
    queue_timeout_s: Annotated[float, msgspec.Meta(ge=0, le=600)] | None = None
    node: Annotated[str, msgspec.Meta(min_length=1, max_length=256)] | None = None
    strategy: RoutingStrategy | None = None


def read_task(raw: bytes) -> TaskRequest:
    """Raises InvalidJson, InvalidRequest or UnknownParameter; `param` names the field."""
    asked = read_fields(load_object(raw, int64_names=("seed",)), TaskRequest, refused={})
    given = [name for name in ("task", "prompt", "messages") if getattr(asked, name) is not None]
    if not given:
        raise InvalidRequest("Missing required parameter: 'prompt', 'task' or 'messages'.", param="prompt")
    if len(given) > 1:
        raise InvalidRequest(f"'{given[0]}' and '{given[1]}' say the same; send one of them.", param=given[1])
    if asked.messages is not None and asked.system is not None:
        raise InvalidRequest("'system' belongs into 'messages' when those are sent.", param="system")
    if asked.model is not None:
        check_model_name(asked.model)
    return asked


def parse_task(asked: TaskRequest, model: ModelName) -> ParsedRequest:
    """`model`: the caller's, or what was chosen for it. Raises as `read_task` does."""
    messages = _messages(asked)
    generation = Generation(
        messages=messages,
        max_tokens=asked.max_tokens,
        temperature=asked.temperature,
        top_p=asked.top_p,
        seed=asked.seed,
        stop=tuple(asked.stop or ()),
        response_format=read_response_format(asked.response_format),
        separate_thinking=True,  # a result is the answer alone
    )
    return ParsedRequest(
        dialect=Dialect.TEXT,
        model=model,
        stream=bool(asked.stream),
        generation=generation,
        prompt_tokens_estimate=tokens_estimate(sum(text_bytes(message.content) for message in messages)),
        max_tokens=asked.max_tokens,
        node=asked.node,
        strategy=asked.strategy,
        queue_within_s=asked.queue_timeout_s,
        within_s=asked.timeout_s,
    )


def _messages(asked: TaskRequest) -> tuple[Message, ...]:
    if asked.messages is not None:
        return read_messages(asked.messages)
    system = [Message(role="system", content=asked.system)] if asked.system else []
    return (*system, Message(role="user", content=asked.prompt or asked.task or ""))
