"""Browser sessions: a cookie that stands for an API key, so that the key itself need not stay in a page.

In memory and of one process: after a restart people show their key again.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie

from chorus_proto.clock import Clock
from chorus_proto.keys import KeyClaim

SESSION_S = 12 * 3600.0
SESSIONS_LIMIT = 10_000


def cookie_name(port: int) -> str:
    """With the port, since a browser sends one host's cookies to all of its ports, another Chorus's among them."""
    return f"chorus_session_{port}"


@dataclass(frozen=True, slots=True)
class _Session:
    claim: KeyClaim
    until_s: float


class Sessions:
    """Of one listener. The oldest of more than `SESSIONS_LIMIT` ends."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._sessions: OrderedDict[str, _Session] = OrderedDict()

    def begin(self, claim: KeyClaim) -> str:
        """The secret for the cookie."""
        token = secrets.token_urlsafe(32)
        self._sessions[token] = _Session(claim, self._clock.monotonic_s() + SESSION_S)
        if len(self._sessions) > SESSIONS_LIMIT:
            self._sessions.popitem(last=False)
        return token

    def end(self, token: str) -> None:
        self._sessions.pop(token, None)

    def claim(self, token: str) -> KeyClaim | None:
        """None when there is no such session, or none any more."""
        found = self._sessions.get(token)
        if found is None:
            return None
        if self._clock.monotonic_s() >= found.until_s:
            del self._sessions[token]
            return None
        return found.claim


def token_in(cookies: list[bytes], port: int) -> str:
    """What the `Cookie` headers say for the listener at `port`; empty when nothing, or nothing readable."""
    for value in cookies:
        try:
            found = SimpleCookie(value.decode("latin-1")).get(cookie_name(port))
        except CookieError:
            continue
        if found is not None:
            return found.value
    return ""
