"""Prompts for gpt-oss: how much it shall think, and whose instructions it follows.

The texts are those of openai-harmony (docs/format.md, src/encoding.rs): the model was trained on exactly these. What
other models call the system prompt is the developer message; the system message holds only what is set here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import date
from enum import StrEnum

from chorus_client.thinking.harmony import CHANNEL, END, MESSAGE, START
from chorus_proto.errors import InvalidRequest
from chorus_proto.generation import Message

_IDENTITY = "You are ChatGPT, a large language model trained by OpenAI."
"""The model must read this whatever it shall be called; another identity belongs into the instructions."""
_KNOWLEDGE_CUTOFF = "2024-06"
_CHANNELS = "# Valid channels: analysis, commentary, final. Channel must be included for every message."
_TOOL_CHANNEL = "Calls to these tools must go to the commentary channel: 'functions'."

_SPECIAL = re.compile(r"<(?=\|[a-z_0-9]+\|>)")


class Effort(StrEnum):
    """How long gpt-oss thinks. MEDIUM is the model's default."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


def effort_named(name: str, *, param: str = "reasoning_effort") -> Effort:
    """Raises InvalidRequest, which names `param`, for a word that is no effort."""
    try:
        return Effort(name)
    except ValueError:
        raise InvalidRequest(f"{param} is {name!r}; it is one of {', '.join(Effort)}", param=param) from None


def defused(text: str) -> str:
    """`text` without special tokens: a zero-width space stands in each, so that no caller can speak as somebody else.

    The reference tokenises a message's text apart from its markers and needs no such thing; a prompt as text does.
    """
    return _SPECIAL.sub("<\u200b", text) if "<|" in text else text


def chat_template_arguments(effort: Effort) -> dict[str, str]:
    """What the `apply_chat_template` of gpt-oss's own tokenizer must be told, where that renders the prompt."""
    return {"reasoning_effort": effort.value}


def system_message(effort: Effort = Effort.MEDIUM, *, today: date | None = None, has_tools: bool = False) -> str:
    """The system message's text. `has_tools`: the developer message declares functions."""
    about = [_IDENTITY, f"Knowledge cutoff: {_KNOWLEDGE_CUTOFF}"]
    if today is not None:
        about.append(f"Current date: {today.isoformat()}")
    channels = f"{_CHANNELS}\n{_TOOL_CHANNEL}" if has_tools else _CHANNELS
    return "\n\n".join(("\n".join(about), f"Reasoning: {effort.value}", channels))


def developer_message(instructions: Iterable[str]) -> str:
    """The developer message's text, of all that a request gives as instructions; "" when that is nothing."""
    given = [text for text in instructions if text]
    return "\n\n".join(("# Instructions", *given)) if given else ""


def prompt(
    messages: Iterable[Message],
    *,
    effort: Effort = Effort.MEDIUM,
    developer_instructions: str = "",
    today: date | None = None,
) -> str:
    """The whole prompt, up to where the model speaks (see `HarmonySplitter`).

    System and developer messages are instructions wherever they stand, and `developer_instructions` come after them.
    Earlier thoughts are not part of `messages`, as the format wants it once an answer was given. Raises InvalidRequest
    for a role that the format does not have.
    """
    instructions: list[str] = []
    turns: list[str] = []
    for message in messages:
        if message.role in ("system", "developer"):
            instructions.append(message.content)
        else:
            turns.append(_rendered(_header_of(message), message.content))
    developer = developer_message((*instructions, developer_instructions))
    head = _rendered("system", system_message(effort, today=today))
    return "".join((head, _rendered("developer", developer) if developer else "", *turns, START, "assistant"))


def _header_of(message: Message) -> str:
    match message.role:
        case "user":
            return "user"
        case "assistant":
            return f"assistant{CHANNEL}final"
        case "tool":
            name = re.sub(r"[\s<>|]", "_", message.name or "tool")
            return f"functions.{name} to=assistant{CHANNEL}commentary"
        case role:
            raise InvalidRequest(f"gpt-oss knows no role {role!r}", param="messages")


def _rendered(header: str, text: str) -> str:
    return f"{START}{header}{MESSAGE}{defused(text)}{END}"
