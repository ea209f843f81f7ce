"""Where each API keeps what the option `rag` needs: in a chat's body, in its answer, and ahead of its stream.

Members that a client does not know are skipped by all three: `rag` stands beside what it reads.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import msgspec

from chorus_http.apis import Api
from chorus_proto.dialects.strict_json import JsonObject, JsonValue

_encode = msgspec.json.Encoder().encode


class AnswerShape(Protocol):
    def limit(self, body: JsonObject) -> JsonValue:
        """The most tokens that the answer may have, as the caller wrote it."""
        ...

    def streams(self, body: JsonObject) -> bool: ...

    def text(self, whole: bytes) -> str:
        """What the model said. Raises msgspec's errors for what is no whole answer."""
        ...

    def ahead(self, rag: object, model: str) -> bytes:
        """What a stream begins with, so that its sources are known before its first word."""
        ...


class _Said(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Said = msgspec.field(default_factory=_Said)


class _Choices(msgspec.Struct):
    choices: tuple[_Choice, ...] = ()


@dataclass(frozen=True, slots=True)
class OpenAIShape:
    def limit(self, body: JsonObject) -> JsonValue:
        return body.get("max_completion_tokens") or body.get("max_tokens")

    def streams(self, body: JsonObject) -> bool:
        return body.get("stream") is True

    def text(self, whole: bytes) -> str:
        choices = msgspec.json.decode(whole, type=_Choices).choices
        return "\n".join(choice.message.content or "" for choice in choices)

    def ahead(self, rag: object, model: str) -> bytes:
        event = {"object": "chat.completion.chunk", "model": model, "choices": (), "rag": rag}
        return b"data: %b\n\n" % _encode(event)


class _Turn(msgspec.Struct):
    message: _Said = msgspec.field(default_factory=_Said)


@dataclass(frozen=True, slots=True)
class OllamaShape:
    def limit(self, body: JsonObject) -> JsonValue:
        options = body.get("options")
        return options.get("num_predict") if isinstance(options, dict) else None

    def streams(self, body: JsonObject) -> bool:
        return body.get("stream") is not False

    def text(self, whole: bytes) -> str:
        return msgspec.json.decode(whole, type=_Turn).message.content or ""

    def ahead(self, rag: object, model: str) -> bytes:
        """A line that adds no text: Ollama's own clients want a message in each."""
        made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        message = {"role": "assistant", "content": ""}
        return _encode({"model": model, "created_at": made, "message": message, "done": False, "rag": rag}) + b"\n"


class _Part(msgspec.Struct):
    text: str = ""


class _Parts(msgspec.Struct):
    content: tuple[_Part, ...] = ()


@dataclass(frozen=True, slots=True)
class AnthropicShape:
    def limit(self, body: JsonObject) -> JsonValue:
        return body.get("max_tokens")

    def streams(self, body: JsonObject) -> bool:
        return body.get("stream") is True

    def text(self, whole: bytes) -> str:
        return "\n".join(part.text for part in msgspec.json.decode(whole, type=_Parts).content)

    def ahead(self, rag: object, model: str) -> bytes:
        """An event of its own: the API's versioning policy has clients skip those that they do not know."""
        return b"event: rag\ndata: %b\n\n" % _encode({"type": "rag", "model": model, "rag": rag})


SHAPES: Mapping[Api, AnswerShape] = {
    Api.OPENAI: OpenAIShape(),
    Api.OLLAMA: OllamaShape(),
    Api.ANTHROPIC: AnthropicShape(),
}
