"""What a model's chat template tells of it, without running it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import msgspec

from chorus_client.gguf import GgufHeader
from chorus_client.thinking.select import style_of
from chorus_proto.values import ThinkingStyle

_TOOLS = re.compile(r"(?<![\w.'\"])tools(?![\w'\"])")
_MOST_BYTES = 1 << 20
"""Of a file that holds a template."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """See the fields of `ModelFile` with these names."""

    thinking: ThinkingStyle
    thinking_optional: bool
    tools: bool


def traits(template: str | None, *, name: str, architecture: str) -> Traits:
    """Of a model with this chat template; None where it is not known."""
    words = template or ""
    return Traits(
        thinking=style_of(name=name, architecture=architecture, template=template),
        thinking_optional="enable_thinking" in words,
        tools=_TOOLS.search(words) is not None,
    )


def template_of_header(header: GgufHeader) -> str | None:
    kept = header.metadata.get("tokenizer.chat_template")
    return kept if isinstance(kept, str) else None


class _Named(msgspec.Struct):
    name: str = ""
    template: str = ""


class _TokenizerConfig(msgspec.Struct):
    chat_template: str | list[_Named] | None = None


def template_of_folder(folder: Path) -> str | None:
    """Where Hugging Face keeps it: a file of its own, or a field of the tokenizer's. None when it cannot be read."""
    try:
        return _bounded(folder / "chat_template.jinja").decode()
    except (OSError, UnicodeDecodeError):
        pass
    try:
        found = msgspec.json.decode(_bounded(folder / "tokenizer_config.json"), type=_TokenizerConfig).chat_template
    except (OSError, UnicodeDecodeError, msgspec.DecodeError):
        return None
    if isinstance(found, list):
        return next((one.template for one in found if one.name == "default"), None)
    return found


def _bounded(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_MOST_BYTES)
