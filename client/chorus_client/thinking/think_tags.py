"""Thoughts between `<think>` and `</think>`, as DeepSeek-R1, QwQ, Qwen3 and many others write them.

The rules are those of Ollama (thinking/parser.go), with which llama.cpp (common/chat-parser.cpp,
`try_parse_reasoning`) agrees where text can be lost:

- `<think>` counts only as the first thing of the answer, after whitespace at most; later it is text that talks about
  the tag. One thought per answer: llama.cpp would take a second one right behind the first, Ollama does not.
- The first `</think>` ends the thought, whatever stands in it. Without an open thought it is text.
- Whitespace around both tags is dropped, but not before `</think>`, for which text would have to be kept back; and an
  answer without a thought keeps all of its own.
- A thought that never ends stays a thought.
- When the chat template has opened the thought (the prompt ends with `<think>`), the answer begins inside of it; a
  model that writes the tag once more is forgiven, as llama.cpp and vLLM (deepseek_r1_reasoning_parser.py) do.
"""

from __future__ import annotations

from enum import Enum, auto

from chorus_client.thinking.splitter import Channel, Part

OPENING = "<think>"
CLOSING = "</think>"

MOST_SPACE = 256
"""Characters of whitespace before `<think>`; after more of them it is text. Bounds what is kept back."""


class _Where(Enum):
    START = auto()
    OPENED = auto()
    THOUGHT = auto()
    CLOSED = auto()
    ANSWER = auto()


class ThinkTagSplitter:
    """See the module. `opened`: the prompt ended with `<think>`."""

    __slots__ = ("_held", "_opened", "_where")

    def __init__(self, *, opened: bool = False) -> None:
        self._opened = opened
        self._where = _Where.START
        self._held = ""

    @property
    def channel(self) -> Channel:
        if self._where is _Where.START:
            return Channel.ANALYSIS if self._opened else Channel.FINAL
        return Channel.ANALYSIS if self._where in (_Where.OPENED, _Where.THOUGHT) else Channel.FINAL

    @property
    def is_answer(self) -> bool:
        return self._where is _Where.ANSWER

    def feed(self, text: str) -> list[Part]:
        if self._where is _Where.ANSWER:
            return [Part(Channel.FINAL, text)] if text else []
        if self._where is _Where.THOUGHT and not self._held and "<" not in text:
            return [Part(Channel.ANALYSIS, text)] if text else []
        text = self._held + text
        self._held = ""
        parts: list[Part] = []
        if self._where is _Where.START:
            text = self._start(text)
        if self._where is _Where.OPENED:
            text = text.lstrip()
            if text:
                self._where = _Where.THOUGHT
        if self._where is _Where.THOUGHT:
            text = self._think(text, parts)
        if self._where is _Where.CLOSED:
            text = text.lstrip()
            if text:
                self._where = _Where.ANSWER
        if self._where is _Where.ANSWER and text:
            parts.append(Part(Channel.FINAL, text))
        return parts

    def finish(self) -> list[Part]:
        text, self._held = self._held, ""
        return [Part(self.channel, text)] if text else []

    def _start(self, text: str) -> str:
        """What is left once it is known how the answer begins; until then it is held."""
        body = text.lstrip()
        if self._opened:
            text = body
        if len(text) - len(body) > MOST_SPACE:
            self._where = _Where.ANSWER
        elif body.startswith(OPENING):
            self._where = _Where.OPENED
            return body[len(OPENING) :]
        elif OPENING.startswith(body):
            self._held = text
            return ""
        else:
            self._where = _Where.THOUGHT if self._opened else _Where.ANSWER
        return text

    def _think(self, text: str, parts: list[Part]) -> str:
        """What follows the thought, if it ends here; a cut-off `</think>` is held."""
        end = text.find(CLOSING)
        if end >= 0:
            self._where = _Where.CLOSED
            rest = text[end + len(CLOSING) :]
        else:
            end = text.rfind("<", -len(CLOSING) + 1)
            if end < 0 or not CLOSING.startswith(text[end:]):
                end = len(text)
            self._held = text[end:]
            rest = ""
        if end:
            parts.append(Part(Channel.ANALYSIS, text[:end]))
        return rest
