"""Generations in the words of Ollama's API, and its answers in ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec
import ollama

from chorus_proto.errors import InvalidRequest, UnsupportedParameter
from chorus_proto.generation import Done, Effort, Generation, Message, ToolCallPart

_NS = 1e9


def options_of(generation: Generation, *, context_tokens: int) -> dict[str, object]:
    """Raises UnsupportedParameter for a field that Ollama does not have."""
    for field in ("logit_bias", "ignore_end"):
        if getattr(generation, field):
            raise UnsupportedParameter(f"Ollama has no {field}", param=field)
    if any(message.name and message.role != "tool" for message in generation.messages or ()):
        raise UnsupportedParameter("Ollama's messages have no name", param="messages.name")
    if generation.tool_choice is not None:
        raise UnsupportedParameter("Ollama lets the model decide whether to call a tool", param="tool_choice")
    if generation.parallel_tool_calls is False:
        raise UnsupportedParameter("Ollama's models may call several tools at once", param="parallel_tool_calls")
    wanted: dict[str, object | None] = {
        "num_ctx": context_tokens,
        "num_predict": generation.max_tokens,
        "temperature": generation.temperature,
        "top_p": generation.top_p,
        "stop": list(generation.stop) or None,
        "seed": generation.seed,
        "presence_penalty": generation.presence_penalty,
        "frequency_penalty": generation.frequency_penalty,
        "top_k": generation.top_k,
        "min_p": generation.min_p,
        "typical_p": generation.typical_p,
        "repeat_penalty": generation.repeat_penalty,
        "repeat_last_n": generation.repeat_last_n,
    }
    return {name: value for name, value in wanted.items() if value is not None}


def messages_of(messages: Sequence[Message]) -> list[ollama.Message]:
    names = {call.id: call.function.name for message in messages for call in message.tool_calls}
    found: list[ollama.Message] = []
    for message in messages:
        calls = [
            ollama.Message.ToolCall(
                function=ollama.Message.ToolCall.Function(
                    name=call.function.name, arguments=_arguments(call.function.arguments)
                )
            )
            for call in message.tool_calls
        ]
        # Ollama knows a tool's answer by the tool's name, OpenAI by the call's.
        tool = names.get(message.tool_call_id or "", message.name) if message.role == "tool" else None
        found.append(
            ollama.Message(role=message.role, content=message.content, tool_calls=calls or None, tool_name=tool)
        )
    return found


def _arguments(text: str) -> dict[str, object]:
    try:
        return msgspec.json.decode(text or "{}", type=dict[str, object])
    except msgspec.DecodeError:
        raise InvalidRequest("a tool call's arguments are not a JSON object", param="messages.tool_calls") from None


def tools_of(generation: Generation) -> list[dict[str, object]] | None:
    if generation.tools is None:
        return None
    return msgspec.json.decode(generation.tools, type=list[dict[str, object]])


def think_of(generation: Generation) -> bool | Literal["low", "high"] | None:
    """Ollama's levels are for gpt-oss; its own default is `medium`."""
    match generation.reasoning_effort:
        case None:
            return None
        case Effort.NONE:
            return False
        case Effort.MEDIUM:
            return True
        case Effort.LOW:
            return "low"
        case Effort.HIGH:
            return "high"


def call_part(call: ollama.Message.ToolCall, index: int) -> ToolCallPart:
    arguments = msgspec.json.encode(dict(call.function.arguments)).decode()
    return ToolCallPart(index, id=f"call_{index}", name=call.function.name, arguments=arguments)


def said(part: ollama.ChatResponse | ollama.GenerateResponse) -> tuple[str, str]:
    """Answer and thought of one line."""
    if isinstance(part, ollama.ChatResponse):
        return part.message.content or "", part.message.thinking or ""
    return part.response or "", part.thinking or ""


class _ResponseFormat(msgspec.Struct):
    class _Schema(msgspec.Struct):
        schema: dict[str, object] = {}

    type: str = "text"
    json_schema: _Schema | None = None


def format_of(generation: Generation) -> dict[str, object] | Literal["json"] | None:
    if generation.response_format is None:
        return None
    wanted = msgspec.json.decode(generation.response_format, type=_ResponseFormat)
    if wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return "json"
    if wanted.type == "json_schema" and wanted.json_schema is not None:
        return wanted.json_schema.schema
    raise UnsupportedParameter(f"Ollama has no response_format {wanted.type!r}", param="response_format")


class _Alternative(msgspec.Struct):
    token: str
    logprob: float

    def row(self) -> dict[str, object]:
        return {"token": self.token, "logprob": self.logprob, "bytes": list(self.token.encode())}


class _Token(_Alternative):
    top_logprobs: list[_Alternative] | None = None


class _Tokens(msgspec.Struct):
    logprobs: list[_Token]


def logprobs_of(part: ollama.ChatResponse | ollama.GenerateResponse) -> bytes:
    """OpenAI's shape of what Ollama tells."""
    tokens = msgspec.json.decode(part.model_dump_json(include={"logprobs"}), type=_Tokens).logprobs
    content = [token.row() | {"top_logprobs": [t.row() for t in token.top_logprobs or ()]} for token in tokens]
    return msgspec.json.encode({"content": content})


def done_of(part: ollama.ChatResponse | ollama.GenerateResponse, deltas: int, *, called: bool) -> Done:
    prompt, answer = part.prompt_eval_count or 0, part.eval_count
    prompt_s, answer_s = (part.prompt_eval_duration or 0) / _NS, (part.eval_duration or 0) / _NS
    return Done(
        finish_reason="tool_calls" if called else part.done_reason or "stop",
        prompt_tokens=prompt,
        completion_tokens=deltas if answer is None else answer,
        prefill_tokens_per_s=prompt / prompt_s if prompt > 1 and prompt_s > 0 else None,
        decode_tokens_per_s=answer / answer_s if answer and answer > 1 and answer_s > 0 else None,
    )
