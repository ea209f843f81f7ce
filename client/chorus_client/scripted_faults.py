"""The faults that the scripted engine can be told to have, and how they are written."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum

import msgspec


class Health(StrEnum):
    OK = "ok"
    SLOW = "slow"
    """/health takes 5 s."""
    LIE = "lie"
    """/health says ok although the model is not loaded."""


class Faults(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Each as `name=value`; None and False: not there. Token numbers count from 0."""

    ttft: float | None = None
    """Seconds to the first token."""
    tps: float | None = None
    """Tokens per second, 0 for full speed."""
    jitter: float = 0.0
    """Each token comes up to this share of its interval late."""
    prefill_tps: float | None = None
    """Prompt tokens per second, before the first token; who asked for progress is told it."""
    prefill_batch: int = 16
    """Prompt tokens between two such tellings."""
    hang_after: int | None = None
    """So many tokens, then silence on an open connection; /health stays ok."""
    ignore_cancel: bool = False
    """A caller who leaves before the end does not free his slot, until the process ends."""
    crash_after: int | None = None
    """So many tokens, then the process ends with `exit_code`; 0 at the start: while loading."""
    exit_code: int = 1
    oom_at: int | None = None
    """So many tokens, then the process ends as one out of memory does; 0 at the start: while loading."""
    ignore_sigterm: bool = False
    fork_child: bool = False
    """At the start: have a child process that ignores SIGTERM."""
    health: Health = Health.OK
    load_s: float | None = None
    load_stall: bool = False
    """Never become ready."""
    bad_utf8: int | None = None
    """This token is preceded by a byte that no UTF-8 has."""
    split_utf8: bool = False
    """Words with characters of several bytes come in two events, cut inside the character."""
    huge_line: int | None = None
    """Bytes of one event before the first token."""
    no_done: bool = False
    dup_done: bool = False
    redirect: bool = False
    wrong_model: bool = False
    leak_mb: float = 0.0
    """MiB that each request leaves behind."""
    log_flood: float = 0.0
    """MiB printed at each request, without a line end."""


_MARKER = re.compile(r"\[\[fault ([^\]]*)\]\]")
_LASTING_MARKER = re.compile(r"\[\[faults ([^\]]*)\]\]")


class BadFault(Exception):
    """Not a fault, or not a value for it; the message is for people."""


def with_faults(base: Faults, words: Iterable[str]) -> Faults:
    """`base` changed by `name=value` words. Raises BadFault."""
    changes: dict[str, object] = {}
    for word in words:
        name, equals, value = word.partition("=")
        changes[name] = value if equals else "true"
    return with_changes(base, changes)


def with_changes(base: Faults, changes: dict[str, object]) -> Faults:
    """`base` with some fields set. Raises BadFault."""
    try:
        return msgspec.convert(msgspec.to_builtins(base) | changes, Faults, strict=False)
    except msgspec.ValidationError as error:
        raise BadFault(f"no such fault: {error}") from None


def faults_in(prompt: str, base: Faults) -> Faults:
    """`base` changed by the markers in a prompt, e.g. `[[fault crash_after=5 exit_code=3]]`. Raises BadFault."""
    if "[[fault " not in prompt:
        return base
    return with_faults(base, (word for marker in _MARKER.findall(prompt) for word in marker.split()))


def lasting_in(prompt: str, base: Faults) -> Faults:
    """`base` changed for this and all later requests, e.g. by `[[faults tps=20]]` in a prompt. Raises BadFault."""
    return with_faults(base, (word for marker in _LASTING_MARKER.findall(prompt) for word in marker.split()))
