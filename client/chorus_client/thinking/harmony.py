"""The channels of gpt-oss, told apart in the text of its answer.

The format is OpenAI's harmony (github.com/openai/harmony, docs/format.md; its parser is src/encoding.rs):

    <|start|>assistant<|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>final<|message|>...<|return|>

An answer begins in the middle of a header, for the prompt ended with `<|start|>assistant`. The special tokens must
arrive as text, so the engine decodes without skipping them. On what the reference parses, this gives the same; what it
refuses (models do write it) is read so that no text is lost and no thought becomes an answer:

- Inside a message only `<|end|>`, `<|return|>` and `<|call|>` mean anything; other markers are text there.
- Text behind them that no `<|start|>` announces goes on with the message before: it only talked about the marker.
- A header without `<|start|>assistant` is the assistant's. One that never comes to `<|message|>` ends with the message,
  or after `LONGEST_HEADER`; what is not role, channel, recipient or format in it was the text.
- An answer without any header is FINAL. So is a message without a channel, unless somebody else speaks or it calls a
  tool: that, and a channel that nobody knows, is COMMENTARY.
- A recipient without `to=` counts if it has a dot and stands alone: `final json` names a format.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import NamedTuple

from chorus_client.thinking.splitter import Channel, Part

START = "<|start|>"
CHANNEL = "<|channel|>"
CONSTRAIN = "<|constrain|>"
MESSAGE = "<|message|>"
END = "<|end|>"
RETURN = "<|return|>"
CALL = "<|call|>"

LONGEST_HEADER = 512
"""Characters. Real headers have about 80; this bounds what is kept back."""
MOST_SPACE = 64
"""Characters of whitespace before a header that are dropped; more of them are text."""

_ENDS = (END, RETURN, CALL)
_MARKERS = (START, CHANNEL, CONSTRAIN, MESSAGE, *_ENDS)


def _any_of(*literals: str) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(literal) for literal in literals))


def _beginnings(*literals: str) -> frozenset[str]:
    return frozenset(literal[:length] for literal in literals for length in range(1, len(literal)))


_END = _any_of(*_ENDS)
_HEADER_END = _any_of(MESSAGE, START, *_ENDS)
_HEADER_START = _any_of(*_MARKERS, "to=")
_SPACE = re.compile(r"\s*")
_NAMED_CHANNEL = re.compile(re.escape(CHANNEL) + r"([^\s<]*)")
_FORMAT = re.compile(re.escape(CONSTRAIN) + r"\s*[^\s<]*")
_RECIPIENT = re.compile(r"(?<!\S)to=([^\s<]*)")
_BARE_RECIPIENT = re.compile(r"\s*([^\s<]+\.[^\s<.]+)\s*")
_ROLE = re.compile(r"\s*(?!to=)([^\s<:]*)(?::[^\s<]*)?")

_END_BEGUN = _beginnings(*_ENDS)
_MARKER_BEGUN = _beginnings(*_MARKERS)
_HEADER_BEGUN = _beginnings(*_MARKERS, "to=")
_LONGEST_END = max(map(len, _ENDS))
_LONGEST_MARKER = max(map(len, _MARKERS))

_CHANNELS = {channel.value: channel for channel in Channel}
_NOBODY = ("all", "assistant", "user")
"""Recipients that are no tools."""


class _Where(Enum):
    FIRST = auto()
    """In a header whose `<|start|>assistant` stands in the prompt, or is missing."""
    HEADER = auto()
    CONTENT = auto()
    BETWEEN = auto()


class _Header(NamedTuple):
    channel: Channel
    recipient: str
    rest: str
    """What is no header in it."""


class HarmonySplitter:
    """See the module. Begins where a prompt that ends with `<|start|>assistant` ends."""

    __slots__ = ("_channel", "_held", "_recipient", "_where")

    def __init__(self) -> None:
        self._where = _Where.FIRST
        self._channel = Channel.FINAL
        self._recipient = ""
        self._held = ""

    @property
    def is_answer(self) -> bool:
        return False  # another message may follow

    @property
    def channel(self) -> Channel | None:
        return self._channel if self._where is _Where.CONTENT else None

    def feed(self, text: str) -> list[Part]:
        if self._where is _Where.CONTENT and not self._held and "<" not in text:
            return [Part(self._channel, text, self._recipient)] if text else []
        text = self._held + text
        parts: list[Part] = []
        at, more = 0, bool(text)
        while more:
            if self._where is _Where.CONTENT:
                at, more = self._content(text, at, parts)
            elif self._where is _Where.BETWEEN:
                at, more = self._between(text, at)
            elif self._where is _Where.FIRST:
                at, more = self._first(text, at, parts)
            else:
                at, more = self._header(text, at, parts)
        self._held = text[at:]
        return parts

    def finish(self) -> list[Part]:
        held, self._held = self._held, ""
        if self._where is _Where.BETWEEN and held.isspace():
            return []
        if self._where is _Where.FIRST and _HEADER_START.search(held) is None:
            self._where = _Where.CONTENT  # a marker that never came
        if self._where in (_Where.FIRST, _Where.HEADER):
            self._channel, self._recipient, held = _read(held, role_given=self._where is _Where.HEADER)
            if held in _MARKER_BEGUN:
                held = ""
        return [Part(self._channel, held, self._recipient)] if held else []

    # Each of these goes on from `at` and tells how far it came, and whether what follows can be read already.

    def _content(self, text: str, at: int, parts: list[Part]) -> tuple[int, bool]:
        end = _END.search(text, at)
        if end is not None:
            self._emit(text[at : end.start()], parts)
            self._where = _Where.BETWEEN
            return end.end(), True
        begun = text.rfind("<", max(at, len(text) - _LONGEST_END + 1))
        if begun < 0 or not _is_begun(text, begun, _END_BEGUN):
            begun = len(text)
        self._emit(text[at:begun], parts)
        return begun, False

    def _between(self, text: str, at: int) -> tuple[int, bool]:
        after_space = _after_space(text, at)
        if after_space - at <= MOST_SPACE:
            if after_space == len(text) or _is_begun(text, after_space, _MARKER_BEGUN):
                return at, False
            if end := _END.match(text, after_space):
                return end.end(), True
            if text.startswith(_MARKERS, after_space):
                self._where = _Where.FIRST
                return after_space, True
        self._where = _Where.CONTENT
        return at, True

    def _first(self, text: str, at: int, parts: list[Part]) -> tuple[int, bool]:
        after_space = _after_space(text, at)
        if after_space - at <= MOST_SPACE:
            if after_space == len(text) or _is_begun(text, after_space, _HEADER_BEGUN):
                return at, False
            if text.startswith(START, after_space):
                self._where = _Where.HEADER
                return after_space + len(START), True
            if _HEADER_START.match(text, after_space):
                return self._header(text, at, parts)
        self._where = _Where.CONTENT
        return at, True

    def _header(self, text: str, at: int, parts: list[Part]) -> tuple[int, bool]:
        end = _HEADER_END.search(text, at, at + LONGEST_HEADER)
        if end is None and len(text) - at < LONGEST_HEADER:
            return at, False
        ends_at = at + LONGEST_HEADER if end is None else end.start()
        header = _read(text[at:ends_at], role_given=self._where is _Where.HEADER)
        self._channel, self._recipient = header.channel, header.recipient
        if end is None:
            self._where = _Where.CONTENT
            self._emit(header.rest, parts)
            return ends_at, True
        if end[0] == MESSAGE:
            self._where = _Where.CONTENT
        else:
            self._where = _Where.HEADER if end[0] == START else _Where.BETWEEN
            self._emit(header.rest, parts)
        return end.end(), True

    def _emit(self, text: str, parts: list[Part]) -> None:
        if text:
            parts.append(Part(self._channel, text, self._recipient))


def _after_space(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    return at if space is None else space.end()


def _is_begun(text: str, at: int, beginnings: frozenset[str]) -> bool:
    """Is all that follows `at` the beginning of a marker? Looks at a few characters, however long `text` is."""
    return len(text) - at < _LONGEST_MARKER and text[at:] in beginnings


def _read(header: str, *, role_given: bool) -> _Header:
    """Role, channel, recipient and format may stand in any order after the role, with or without spaces."""
    role = "assistant"
    if role_given and (found := _ROLE.match(header)):
        role = found[1] or role
        header = header[found.end() :]
    name = ""
    if found := _NAMED_CHANNEL.search(header):
        name = found[1]
        header = header[: found.start()] + header[found.end() :]
    header = _FORMAT.sub("", header, count=1)
    recipient = ""
    if found := _RECIPIENT.search(header) or _BARE_RECIPIENT.fullmatch(header):
        recipient = found[1]
        header = header[: found.start()] + header[found.end() :]
    if recipient in _NOBODY:
        recipient = ""
    if name:
        channel = _CHANNELS.get(name, Channel.COMMENTARY)
    else:
        channel = Channel.COMMENTARY if recipient or role != "assistant" else Channel.FINAL
    return _Header(channel, recipient, header.strip())
