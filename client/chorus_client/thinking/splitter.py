"""What a splitter of thoughts and answer is, and what can be done with the parts it finds."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Protocol

import msgspec

from chorus_proto.errors import InvalidRequest
from chorus_proto.generation import Channel


class Part(msgspec.Struct, frozen=True, gc=False):
    """Some text of one channel, never empty. A Struct, as `Delta` is: one is made for every token.

    `recipient`: the text is a call of that tool (`functions.get_weather`) and not meant for people.
    """

    channel: Channel
    text: str
    recipient: str = ""


class Splitter(Protocol):
    """Takes one model answer in pieces, cut anywhere, and gives the same text whatever the cuts.

    To go on with an answer that another node began, feed what is known of it first and drop those parts.
    """

    @property
    def channel(self) -> Channel | None:
        """Where the text now goes; None between messages, where there is only structure."""
        ...

    @property
    def is_answer(self) -> bool:
        """Whatever comes is the answer, as it is: nothing in it is looked for any more."""
        ...

    def feed(self, text: str) -> list[Part]:
        """The parts that are certain now. At most a few hundred characters are kept back."""
        ...

    def finish(self) -> list[Part]:
        """The answer is over: what was kept back. A second call gives nothing."""
        ...


class Unsplit:
    """For a model that does not think aloud: everything is the answer."""

    __slots__ = ()

    @property
    def channel(self) -> Channel:
        return Channel.FINAL

    @property
    def is_answer(self) -> bool:
        return True

    def feed(self, text: str) -> list[Part]:
        return [Part(Channel.FINAL, text)] if text else []

    def finish(self) -> list[Part]:
        return []


def merged(parts: Iterable[Part]) -> list[Part]:
    """Neighbours of one channel and recipient made one part."""
    runs: list[tuple[Part, list[str]]] = []
    for part in parts:
        if runs and runs[-1][0].channel is part.channel and runs[-1][0].recipient == part.recipient:
            runs[-1][1].append(part.text)
        else:
            runs.append((part, [part.text]))
    return [Part(first.channel, "".join(texts), first.recipient) for first, texts in runs]


def included(parts: Iterable[Part], channels: Collection[Channel]) -> list[Part]:
    """The parts that a caller who named these channels gets to see."""
    return [part for part in parts if part.channel in channels]


def channels_named(names: Iterable[str]) -> frozenset[Channel]:
    """What `include_channels` of a request asks for. Raises InvalidRequest for a name that is no channel."""
    try:
        return frozenset(Channel(name) for name in names)
    except ValueError as error:
        known = ", ".join(Channel)
        raise InvalidRequest(f"include_channels: {error}; there are {known}", param="include_channels") from None
