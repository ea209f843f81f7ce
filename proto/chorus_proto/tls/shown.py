"""The certificate that a listener shows, always fresh: issued anew in time, and when this PC gets another address."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from chorus_proto.clock import Clock
from chorus_proto.tls.authority import Authority, Issued

log = logging.getLogger(__name__)

LOOK_EVERY_S = 300.0

Names = Callable[[], frozenset[str]]


class ShownCertificate:
    """Of one listener. `current` may be read by any thread; `run` alone replaces it."""

    def __init__(self, authority: Authority, clock: Clock, names: Names) -> None:
        """`names`: by which this PC can be reached now."""
        self._authority = authority
        self._clock = clock
        self._names = names
        self.current = self._issued(names())

    def look(self) -> bool:
        """Issue a new one if it is time; True when it was."""
        names = self._names()
        grown = not names <= self.current.names
        if not grown and self._clock.unix_s() < self.current.renew_unix_s:
            return False
        self.current = self._issued(names)
        log.info("a new server certificate for %s", ", ".join(sorted(names)))
        return True

    async def run(self, changed: Callable[[Issued], None]) -> None:
        """Look until cancelled, and tell `changed` of each new one."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            if await asyncio.to_thread(self.look):
                changed(self.current)

    def _issued(self, names: frozenset[str]) -> Issued:
        return self._authority.issue(names, now_unix_s=self._clock.unix_s())
