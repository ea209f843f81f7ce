"""What the coordinator said of keys a moment ago, and an end for what still runs when it no longer says so."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from chorus_proto.clock import Clock
from chorus_proto.cluster import Cluster
from chorus_proto.errors import ClusterError, CoordinatorUnavailable, InvalidApiKey
from chorus_proto.keys import ApiKey, KeyClaim

log = logging.getLogger(__name__)

FRESH_S = 0.5
"""A key that was good is taken for good so long."""
LOOK_EVERY_S = 0.25
"""Both keep a revocation well within 1 s."""
KNOWN_LIMIT = 10_000


@dataclass(frozen=True, slots=True)
class _Known:
    key: ApiKey
    until_s: float


class KnownKeys:
    """Asks the coordinator once for all who show the same key at the same time."""

    def __init__(self, cluster: Cluster, clock: Clock, *, within_s: float) -> None:
        self._cluster = cluster
        self._clock = clock
        self._within_s = within_s
        self._known: OrderedDict[KeyClaim, _Known] = OrderedDict()
        self._asking: dict[KeyClaim, asyncio.Task[ApiKey]] = {}

    async def check(self, claim: KeyClaim) -> ApiKey:
        """Raises InvalidApiKey, and CoordinatorUnavailable when nobody can tell."""
        known = self._known.get(claim)
        if known is not None and self._clock.monotonic_s() < known.until_s:
            return known.key
        return await self.ask(claim)

    async def ask(self, claim: KeyClaim) -> ApiKey:
        """As `check`, whatever was said before."""
        task = self._asking.get(claim)
        if task is None:
            task = asyncio.create_task(self._ask(claim), name=f"key:{claim.key_id}")
            self._asking[claim] = task
            task.add_done_callback(lambda done: self._asked(claim, done))
        return await asyncio.shield(task)

    async def _ask(self, claim: KeyClaim) -> ApiKey:
        asked_s = self._clock.monotonic_s()
        try:
            async with asyncio.timeout(self._within_s):
                key = await self._cluster.check_key(claim)
        except TimeoutError:
            raise CoordinatorUnavailable("The coordinator did not say in time whether the key is good.") from None
        self._known[claim] = _Known(key, asked_s + FRESH_S)
        self._known.move_to_end(claim)
        if len(self._known) > KNOWN_LIMIT:
            self._known.popitem(last=False)
        return key

    def _asked(self, claim: KeyClaim, done: asyncio.Task[ApiKey]) -> None:
        self._asking.pop(claim, None)
        if not done.cancelled() and isinstance(done.exception(), InvalidApiKey):
            self._known.pop(claim, None)


class KeyWatch:
    """Ends what runs for a key soon after the key's own end."""

    def __init__(self, keys: KnownKeys) -> None:
        self._keys = keys
        self._running: dict[KeyClaim, set[Callable[[], None]]] = {}
        self._looking: asyncio.Task[None] | None = None

    def add(self, claim: KeyClaim, end: Callable[[], None]) -> Callable[[], None]:
        """Call `end` once `claim` is no longer good; returns what takes that back. `end` must differ each time."""
        self._running.setdefault(claim, set()).add(end)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(), name="key-watch")
        return lambda: self._remove(claim, end)

    def _remove(self, claim: KeyClaim, end: Callable[[], None]) -> None:
        ends = self._running.get(claim, set())
        ends.discard(end)
        if not ends:
            self._running.pop(claim, None)

    async def _look(self) -> None:
        """As long as something runs for a key."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            if not self._running:
                return
            await asyncio.gather(*(self._look_at(claim) for claim in list(self._running)))

    async def _look_at(self, claim: KeyClaim) -> None:
        try:
            await self._keys.ask(claim)
        except InvalidApiKey as error:
            ends = self._running.pop(claim, set())
            log.info("key %s: %s Requests cut: %d", claim.key_id, error.message, len(ends))
            for end in ends:
                end()
        except ClusterError as error:
            log.debug("key %s could not be looked at: %s", claim.key_id, error.message)
