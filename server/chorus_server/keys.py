"""Every API key of the cluster: made, checked and revoked here, on the disk before anybody is told."""

from __future__ import annotations

import asyncio
import dataclasses
import hmac
import logging
import math
from collections.abc import Callable
from contextlib import AbstractContextManager

from chorus_proto.clock import Clock
from chorus_proto.errors import ClusterError, InternalError, InvalidApiKey, InvalidRequest, NotFound
from chorus_proto.keys import ApiKey, KeyClaim, KeyId, MadeKey, NewKey, Scope, claim_of, key_text
from chorus_server.quotas import Bill, Quotas
from chorus_server.store import KeyTable, SavedKey

log = logging.getLogger(__name__)

LIVE_LIMIT = 10_000
NAME_CHARACTERS = 64
LARGEST_LIMIT = 2**32 - 1
LONGEST_S = 10 * 365 * 86_400.0

_NOBODYS = bytes(32)


class Keys:
    """All keys, in memory, of the coordinator's loop alone."""

    def __init__(self, table: KeyTable, clock: Clock) -> None:
        self._table = table
        self._clock = clock
        self._changing = asyncio.Lock()
        self._known: dict[KeyId, SavedKey] = {}
        self._used_unix_s: dict[KeyId, float] = {}
        self._quotas = Quotas(clock)
        self._endings: dict[KeyId, set[Callable[[], object]]] = {}
        self._local, self.local_text = self._made(NewKey(name="this PC", scopes=(Scope.ADMIN,), trusted=True))
        """For this PC's own commands, good as long as this process runs; it is in no list."""

    async def remember(self) -> None:
        """Read what the store has. Raises what `KeyTable.all` raises."""
        saved = await self._table.all()
        self._known = {one.key.key_id: one for one in saved}
        self._quotas.remember({one.key.key_id: one.spent for one in saved})

    @property
    def any_live(self) -> bool:
        """True when at least one key would let somebody in."""
        now = self._clock.unix_s()
        return any(saved.key.is_live(now) for saved in self._known.values())

    # Verbs --------------------------------------------------------------------------------------------------------

    async def create(self, wish: NewKey) -> MadeKey:
        """See `Cluster.create_key`."""
        async with self._changing:
            self._check(wish)
            saved, text = self._made(wish)
            await self._table.add(saved)
            self._known[saved.key.key_id] = saved
        log.info("key %s %r made for %r: %s", saved.key.key_id, wish.name, saved.key.owner, ", ".join(wish.scopes))
        return MadeKey(key=saved.key, text=text)

    def list(self) -> tuple[ApiKey, ...]:
        """See `Cluster.list_keys`."""
        return tuple(self._shown(saved.key) for saved in self._known.values())

    async def revoke(self, key: str) -> ApiKey:
        """See `Cluster.revoke_key`."""
        async with self._changing:
            saved = self._found(key)
            if saved.key.revoked_unix_s is None:
                revoked = dataclasses.replace(saved.key, revoked_unix_s=self._clock.unix_s())
                await self._table.revoke(revoked.key_id, self._clock.unix_s())
                saved = self._known[revoked.key_id] = dataclasses.replace(saved, key=revoked)
                log.info("key %s %r revoked", revoked.key_id, revoked.name)
        self._tell_ended(saved.key.key_id)
        return self._shown(saved.key)

    def check(self, claim: KeyClaim) -> ApiKey:
        """See `Cluster.check_key`."""
        local = claim.key_id == self._local.key.key_id
        saved = self._local if local else self._known.get(claim.key_id)
        # An unknown id costs the same comparison, so that the time tells nothing of which ids exist.
        if not hmac.compare_digest(_NOBODYS if saved is None else saved.digest, claim.digest) or saved is None:
            raise InvalidApiKey("This API key is unknown.")
        now = self._clock.unix_s()
        if saved.key.revoked_unix_s is not None:
            raise InvalidApiKey("This API key has been revoked.")
        if not saved.key.is_live(now):
            raise InvalidApiKey("This API key has expired.")
        if not local:
            self._used_unix_s[claim.key_id] = now
        return saved.key

    def is_local(self, key: ApiKey) -> bool:
        """True for the one that only this PC's own processes hold."""
        return key.key_id == self._local.key.key_id

    # Life ---------------------------------------------------------------------------------------------------------

    def watch(self, key_id: KeyId, ended: Callable[[], object]) -> Callable[[], None]:
        """Call `ended` once the key is no longer good; returns what takes that back."""
        self._endings.setdefault(key_id, set()).add(ended)

        def undo() -> None:
            watchers = self._endings.get(key_id, set())
            watchers.discard(ended)
            if not watchers:
                self._endings.pop(key_id, None)

        return undo

    def billed(self, key_id: str, *, prompt_tokens_estimate: int) -> AbstractContextManager[Bill]:
        """See `Quotas.billed`; a key that is not in the books pays nothing."""
        saved = self._known.get(KeyId(key_id))
        key = None if saved is None else saved.key
        return self._quotas.billed(key, prompt_tokens_estimate=prompt_tokens_estimate)

    def sweep(self) -> None:
        """Tell those who work for a key that has expired since."""
        now = self._clock.unix_s()
        for key_id in list(self._endings):
            saved = self._known.get(key_id)
            if saved is not None and not saved.key.is_live(now):
                self._tell_ended(key_id)

    async def save(self) -> None:
        """Write down when keys were last used, and for what. A full disk is only logged."""
        used, self._used_unix_s = self._used_unix_s, {}
        spent = self._quotas.unsaved()
        if not used and not spent:
            return
        for key_id, when in used.items():
            saved = self._known[key_id]
            self._known[key_id] = dataclasses.replace(saved, key=dataclasses.replace(saved.key, last_used_unix_s=when))
        try:
            await self._table.used(used, spent)
        except ClusterError as error:
            log.warning("when keys were last used could not be written down: %s", error.message)

    def _tell_ended(self, key_id: KeyId) -> None:
        for ended in tuple(self._endings.get(key_id, ())):
            ended()

    def _shown(self, key: ApiKey) -> ApiKey:
        used = self._used_unix_s.get(key.key_id, key.last_used_unix_s)
        return dataclasses.replace(key, last_used_unix_s=used, tokens_today=self._quotas.today(key.key_id))

    def _found(self, key: str) -> SavedKey:
        """By id, or by name: the live one, else the one made last. Raises NotFound."""
        named = [saved for saved in self._known.values() if key in (saved.key.key_id, saved.key.name)]
        if not named:
            raise NotFound(f"There is no API key {key[:NAME_CHARACTERS]!r}.")
        return next((saved for saved in named if saved.key.revoked_unix_s is None), named[-1])

    def _made(self, wish: NewKey) -> tuple[SavedKey, str]:
        key_id, text = key_text()
        while key_id in self._known:
            key_id, text = key_text()
        claim = claim_of(text.encode())
        if claim is None:
            raise InternalError("a key that was just made is none")
        now = self._clock.unix_s()
        key = ApiKey(
            key_id=key_id,
            name=wish.name,
            owner=wish.owner or wish.name,
            scopes=wish.scopes,
            created_unix_s=now,
            expires_unix_s=None if wish.expires_in_s is None else now + wish.expires_in_s,
            requests_per_minute=wish.requests_per_minute,
            parallel=wish.parallel,
            tokens_per_day=wish.tokens_per_day,
            trusted=wish.trusted,
            thought_field=wish.thought_field,
        )
        return SavedKey(key=key, digest=claim.digest), text

    def _check(self, wish: NewKey) -> None:
        """Raises InvalidRequest."""
        _check_name("name", wish.name)
        _check_name("owner", wish.owner or wish.name)
        if not wish.scopes:
            raise InvalidRequest(f"A key needs at least one scope: {', '.join(Scope)}.", param="scopes")
        if wish.expires_in_s is not None and not (math.isfinite(wish.expires_in_s) and wish.expires_in_s > 0):
            raise InvalidRequest("A key expires some time from now, not before.", param="expires_in_s")
        if wish.expires_in_s is not None and wish.expires_in_s > LONGEST_S:
            raise InvalidRequest("A key that expires does so within 10 years.", param="expires_in_s")
        limits = {
            "requests_per_minute": wish.requests_per_minute,
            "parallel": wish.parallel,
            "tokens_per_day": wish.tokens_per_day,
        }
        for field, limit in limits.items():
            if limit is not None and not 1 <= limit <= LARGEST_LIMIT:
                raise InvalidRequest(f"{field} is a number from 1 to {LARGEST_LIMIT}.", param=field)
        live = [saved.key for saved in self._known.values() if saved.key.revoked_unix_s is None]
        if any(wish.name in (key.name, key.key_id) for key in live):
            raise InvalidRequest(f"There is a key named {wish.name!r} already; revoke it first.", param="name")
        if len(live) >= LIVE_LIMIT:
            raise InvalidRequest(f"There are {LIVE_LIMIT} keys already; revoke some.")


def _check_name(field: str, text: str) -> None:
    """Raises InvalidRequest. `@` and `/` set apart users who are no owners; see `Call.user`."""
    if not 1 <= len(text) <= NAME_CHARACTERS or not text.isprintable() or text != text.strip():
        raise InvalidRequest(f"A key's {field} has 1-{NAME_CHARACTERS} printable characters.", param=field)
    if "/" in text or text.startswith("@"):
        raise InvalidRequest(f"A key's {field} has no '/' and does not begin with '@'.", param=field)
