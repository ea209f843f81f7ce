"""The hours in which a PC may work: spans of weekdays and local time, written as `mon-fri 18:00-08:00`.

A span that ends before it begins goes over midnight and belongs to the day on which it begins.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from chorus_proto.settings import SettingsError

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_SPAN = re.compile(r"(?:(?P<days>[a-z,+-]+)\s+)?(?P<from>\d{1,2}:\d{2})\s*-\s*(?P<to>\d{1,2}:\d{2})")
_DAY_MINUTES = 24 * 60
_WEEK_MINUTES = 7 * _DAY_MINUTES


@dataclass(frozen=True, slots=True)
class LocalTime:
    """`weekday` 0 is Monday; `minute` counts from midnight."""

    weekday: int
    minute: int


@dataclass(frozen=True, slots=True)
class WorkingHours:
    """Minutes of the week, `spans` of [from, to), which may go past the week's end. No spans: always."""

    spans: tuple[tuple[int, int], ...] = ()
    words: str = ""

    def allow(self, now: LocalTime) -> bool:
        if not self.spans:
            return True
        minute = now.weekday * _DAY_MINUTES + now.minute
        return any(begin <= at < end for begin, end in self.spans for at in (minute, minute + _WEEK_MINUTES))


ALWAYS = WorkingHours()


def working_hours(written: Sequence[str]) -> WorkingHours:
    """Read the setting. Raises SettingsError that shows how to write it."""
    spans = [span for text in written for span in _spans(text)]
    return WorkingHours(tuple(spans), ", ".join(text.strip() for text in written))


def _spans(text: str) -> list[tuple[int, int]]:
    found = _SPAN.fullmatch(text.strip().lower())
    if found is None:
        raise _unreadable(text)
    begin, end = _minute(found["from"], text), _minute(found["to"], text)
    if begin == end:
        raise _unreadable(text)
    length = (end - begin) % _DAY_MINUTES or _DAY_MINUTES
    starts = [day * _DAY_MINUTES + begin for day in _weekdays(found["days"], text)]
    return [(start, start + length) for start in starts]


def _minute(text: str, whole: str) -> int:
    hour, minute = (int(part) for part in text.split(":"))
    if minute > 59 or hour > 24 or (hour == 24 and minute):
        raise _unreadable(whole)
    return hour * 60 + minute


def _weekdays(text: str | None, whole: str) -> list[int]:
    """`mon-fri`, `sat+sun`, `fri-mon`; None is every day."""
    if text is None:
        return list(range(7))
    days: dict[int, None] = {}
    for part in re.split(r"[,+]", text):
        ends = part.split("-")
        if len(ends) > 2 or not set(ends) <= set(_DAYS):
            raise _unreadable(whole)
        first, last = _DAYS.index(ends[0]), _DAYS.index(ends[-1])
        days |= dict.fromkeys((first + step) % 7 for step in range((last - first) % 7 + 1))
    return list(days)


def _unreadable(text: str) -> SettingsError:
    return SettingsError(
        f"polite_hours: {text!r} is no span of time; write it like 'mon-fri 18:00-08:00', 'sat+sun 00:00-24:00' or "
        "'22:00-06:00'"
    )
