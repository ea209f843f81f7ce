"""What a request's headers ask of the queue: a class of priority, and how long it may wait."""

from __future__ import annotations

import math
from dataclasses import dataclass

from chorus_http.exchange import Exchange
from chorus_proto.errors import InvalidRequest
from chorus_proto.values import Priority

PRIORITY_HEADER = "X-Chorus-Priority"
QUEUE_TIMEOUT_HEADER = "X-Queue-Timeout"
LONGEST_WAIT_S = 600.0
_PRIORITY = PRIORITY_HEADER.lower().encode()
_QUEUE_TIMEOUT = QUEUE_TIMEOUT_HEADER.lower().encode()

CALLERS_PRIORITIES = (Priority.INTERACTIVE, Priority.BATCH)
"""Durable is for work that is written down before it is accepted; callers cannot ask for it."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """None: the header is not there."""

    priority: Priority | None = None
    queue_within_s: float | None = None


def wishes(exchange: Exchange) -> Wishes:
    """Raises InvalidRequest; `param` names the header."""
    return Wishes(_priority(exchange.header(_PRIORITY)), _seconds(exchange.header(_QUEUE_TIMEOUT)))


def _priority(text: str | None) -> Priority | None:
    if text is None:
        return None
    for one in CALLERS_PRIORITIES:
        if text.strip().lower() == one:
            return one
    names = " or ".join(CALLERS_PRIORITIES)
    raise InvalidRequest(f"{PRIORITY_HEADER} must be {names}.", param=PRIORITY_HEADER)


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= LONGEST_WAIT_S:
        raise InvalidRequest(
            f"{QUEUE_TIMEOUT_HEADER} must be a number of seconds from 0 to {LONGEST_WAIT_S:g}.",
            param=QUEUE_TIMEOUT_HEADER,
        )
    return seconds
