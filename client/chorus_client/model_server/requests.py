"""What callers may ask of the model server: OpenAI's fields, checked as everywhere in Chorus, and seed 004's own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, TypeAlias

import msgspec

from chorus_client.thinking.harmony_prompt import Effort, effort_named
from chorus_client.thinking.splitter import Channel
from chorus_proto.dialects.fields import read_fields
from chorus_proto.dialects.openai_request import parse_chat, parse_completion
from chorus_proto.dialects.parsed import ParsedRequest
from chorus_proto.dialects.strict_json import load_object
from chorus_proto.errors import InvalidRequest, UnsupportedParameter
from chorus_proto.generation import Effort as WantedEffort

_Instructions: TypeAlias = Annotated[str, msgspec.Meta(max_length=1 << 20)]


class _TemplateArguments(msgspec.Struct, forbid_unknown_fields=True):
    """Of llama-server's `chat_template_kwargs`, those that say how long to think."""

    enable_thinking: bool | None = None
    reasoning_effort: str | None = None


class _Own(msgspec.Struct, kw_only=True):
    """Fields beside OpenAI's; `reasoning_effort` is OpenAI's name for `reasoning`."""

    separate_thinking: bool | None = None
    reasoning: str | None = None
    reasoning_effort: str | None = None
    include_channels: Annotated[list[Channel], msgspec.Meta(max_length=8)] | None = None
    developer_instructions: _Instructions | None = None
    ignore_eos: bool | None = None
    return_progress: bool | None = None
    # llama-server's way to be told which stop sequence ended an answer: here `stop_reason` always says it.
    verbose: bool | None = None
    response_fields: list[str] | None = None
    chat_template_kwargs: _TemplateArguments | None = None
    top_k: Annotated[int, msgspec.Meta(ge=0, le=1 << 20)] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One checked request. `channels`: those to show besides the answer; None when nobody asked for them by name."""

    parsed: ParsedRequest
    chat: bool
    top_k: int | None
    reasoning: Effort | None
    developer_instructions: str | None
    separate_thinking: bool | None
    channels: tuple[Channel, ...] | None
    ignore_end: bool
    return_progress: bool


def read_request(raw: bytes, *, chat: bool) -> Asked:
    """A body of /v1/chat/completions or /v1/completions.

    Raises InvalidJson, InvalidRequest, UnknownParameter or UnsupportedParameter; `param` names the field.
    """
    body = load_object(raw, int64_names=("seed",))
    if body.get("tools"):
        raise UnsupportedParameter("'tools': calls cannot be honoured by this server.", param="tools")
    own = read_fields({name: body.pop(name) for name in _Own.__struct_fields__ if name in body}, _Own, refused={})
    parsed = (parse_chat if chat else parse_completion)(msgspec.json.encode(body))
    if parsed.others:
        raise UnsupportedParameter(
            "'n': ask once for each answer.", param="prompt" if parsed.generation.prompt else "n"
        )
    if not chat:
        _refuse_chat_fields(own)
    field = "reasoning" if own.reasoning is not None else "reasoning_effort"
    template = own.chat_template_kwargs or _TemplateArguments()
    effort = own.reasoning or own.reasoning_effort or template.reasoning_effort
    if effort == "none" or template.enable_thinking is False:
        generation = msgspec.structs.replace(parsed.generation, reasoning_effort=WantedEffort.NONE)
        parsed = replace(parsed, generation=generation)
    return Asked(
        parsed=parsed,
        chat=chat,
        top_k=own.top_k,
        reasoning=None if effort in (None, "none") else effort_named(effort, param=field),
        developer_instructions=own.developer_instructions,
        separate_thinking=own.separate_thinking,
        channels=_channels(own),
        ignore_end=bool(own.ignore_eos) or parsed.generation.ignore_end,
        return_progress=bool(own.return_progress),
    )


def _channels(own: _Own) -> tuple[Channel, ...] | None:
    if own.include_channels is not None:
        return tuple(dict.fromkeys(own.include_channels))
    return tuple(Channel) if own.separate_thinking else None


def _refuse_chat_fields(own: _Own) -> None:
    for name in ("separate_thinking", "reasoning", "reasoning_effort", "include_channels", "developer_instructions"):
        if getattr(own, name):
            raise InvalidRequest(f"'{name}' works for /v1/chat/completions only.", param=name)
