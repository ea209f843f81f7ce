"""Which splitter a model needs."""

from __future__ import annotations

import re

from chorus_client.thinking.harmony import CHANNEL, MESSAGE, HarmonySplitter
from chorus_client.thinking.splitter import Splitter, Unsplit
from chorus_client.thinking.think_tags import CLOSING, OPENING, ThinkTagSplitter
from chorus_proto.values import ThinkingStyle

_GPT_OSS = re.compile(r"gpt[-_ ]?oss", re.IGNORECASE)
_THINKERS = re.compile(r"deepseek-?r1|\bqwq\b|qwen-?3(?![-.\w]*(?:coder|instruct|embed|rerank))", re.IGNORECASE)
"""Models known to write `<think>`, for lack of a template. A wrong guess is harmless: TAGS looks at the start only."""

_GENERATION = "add_generation_prompt"
_LITERAL = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|\}[^{}]*\{", re.DOTALL)
"""In Jinja: a string, or text between two tags."""


def style_of(*, name: str = "", architecture: str = "", template: str | None = None) -> ThinkingStyle:
    """The style of a model, by its chat template if that is known, else by architecture, else by name.

    `architecture`: as GGUF (`gpt-oss`), Ollama (`gptoss`) or Hugging Face (`gpt_oss`, `GptOssForCausalLM`) has it.
    """
    if template:
        if CHANNEL in template and MESSAGE in template:
            return ThinkingStyle.HARMONY
        if OPENING in template or CLOSING in template:
            return ThinkingStyle.OPENED_TAGS if _opens_thought(template) else ThinkingStyle.TAGS
        return ThinkingStyle.PLAIN
    if _GPT_OSS.search(architecture) or _GPT_OSS.search(name):
        return ThinkingStyle.HARMONY
    return ThinkingStyle.TAGS if _THINKERS.search(name) else ThinkingStyle.PLAIN


def splitter_for(style: ThinkingStyle, *, prompt: str | None = None) -> Splitter:
    """A new splitter, for one answer. `prompt`: as rendered; its end says for certain whether the thought is open.

    llama.cpp (common/chat.cpp) decides by the same look at the prompt.
    """
    if style is ThinkingStyle.HARMONY:
        return HarmonySplitter()
    if style is ThinkingStyle.PLAIN:
        return Unsplit()
    opened = style is ThinkingStyle.OPENED_TAGS if prompt is None else prompt.rstrip().endswith(OPENING)
    return ThinkTagSplitter(opened=opened)


def _opens_thought(template: str) -> bool:
    """Does what the template writes last, where the model is to speak, end with `<think>`?

    A guess without running it. Where a condition decides (`enable_thinking`), an open thought counts, unless it is
    written together with its end, which switches thinking off.
    """
    _, found, tail = template.rpartition(_GENERATION)
    if not found:
        return False
    for literal in _LITERAL.findall(tail):
        text = literal[1:-1].replace("\\n", "\n").rstrip("\n ")
        if text.endswith(OPENING):
            return True
    return False
