"""Who may be a node of an encrypted hub: join tokens, and who came in by one. On the disk before anybody is told."""

from __future__ import annotations

import asyncio
import dataclasses
import hmac
import logging
import math
from collections import OrderedDict, deque
from collections.abc import Callable

from chorus_proto.clock import Clock
from chorus_proto.errors import Forbidden, InvalidRequest, NotFound, RateLimitExceeded
from chorus_proto.ids import NodeId
from chorus_proto.membership import (
    DIGEST_BYTES,
    JoinWish,
    Member,
    NodeClaim,
    OpenToken,
    TokenId,
    digest_of,
    new_join_token,
)
from chorus_server.store import MemberTable, SavedMember, SavedToken

log = logging.getLogger(__name__)

TOKEN_LIVES_S = 3600.0
TOKEN_LONGEST_S = 30 * 86_400.0
USES_LIMIT = 1000
TOKENS_LIMIT = 1000
MEMBERS_LIMIT = 10_000
NAME_CHARACTERS = 64

WRONG_SECRETS_LIMIT = 5
"""Of one token: then it is gone. Somebody guesses."""
WRONG_PER_MINUTE = 10
"""From one address."""
MINUTE_S = 60.0
ADDRESSES_LIMIT = 1000

NO_TOKEN = "This join token is unknown, has expired or is used up; make another on the hub: chorus join-token create"
NO_MEMBER = "This PC is no member of this cluster (any more); it joins with a token: chorus join-token create"

_NOBODYS = bytes(DIGEST_BYTES)


class Roster:
    """All tokens and members, in memory, of the coordinator's loop alone."""

    def __init__(self, table: MemberTable, clock: Clock, *, fingerprint: str) -> None:
        """`fingerprint`: SHA-256 of the hub's authority, which each token names."""
        self._table = table
        self._clock = clock
        self._fingerprint = fingerprint
        self._changing = asyncio.Lock()
        self._tokens: dict[TokenId, SavedToken] = {}
        self._members: dict[NodeId, SavedMember] = {}
        self._wrong: dict[TokenId, int] = {}
        self._wrong_from: OrderedDict[str, deque[float]] = OrderedDict()
        self._endings: dict[NodeId, set[Callable[[], object]]] = {}

    async def remember(self) -> None:
        """Read what the store has. Raises what `MemberTable` raises."""
        self._tokens = {one.token.token_id: one for one in await self._table.tokens()}
        self._members = {one.member.node_id: one for one in await self._table.members()}

    # Tokens -------------------------------------------------------------------------------------------------------

    async def create_token(self, *, expires_in_s: float = TOKEN_LIVES_S, uses: int = 1) -> tuple[OpenToken, str]:
        """A new token, and its text, which is known this once. Raises InvalidRequest."""
        if not (math.isfinite(expires_in_s) and 0 < expires_in_s <= TOKEN_LONGEST_S):
            raise InvalidRequest("A join token lives for up to 30 days.", param="expires_in_s")
        if not 1 <= uses <= USES_LIMIT:
            raise InvalidRequest(f"A join token is for 1-{USES_LIMIT} PCs.", param="uses")
        async with self._changing:
            await self._forget_expired()
            if len(self._tokens) >= TOKENS_LIMIT:
                raise InvalidRequest(f"There are {TOKENS_LIMIT} join tokens already; revoke some.")
            made = new_join_token(self._fingerprint)
            while made.token_id in self._tokens:
                made = new_join_token(self._fingerprint)
            now = self._clock.unix_s()
            token = OpenToken(
                token_id=made.token_id, created_unix_s=now, expires_unix_s=now + expires_in_s, uses_left=uses
            )
            saved = SavedToken(token=token, digest=digest_of(made.secret))
            await self._table.add_token(saved)
            self._tokens[token.token_id] = saved
        log.info("join token %s made, for %d PCs within %.0f s", token.token_id, uses, expires_in_s)
        return token, made.text

    def tokens(self) -> tuple[OpenToken, ...]:
        """Those that still let somebody in."""
        now = self._clock.unix_s()
        return tuple(one.token for one in self._tokens.values() if now < one.token.expires_unix_s)

    async def revoke_token(self, token_id: str) -> OpenToken:
        """Raises NotFound."""
        async with self._changing:
            saved = self._tokens.get(TokenId(token_id))
            if saved is None:
                raise NotFound(f"There is no join token {token_id[:NAME_CHARACTERS]!r}.")
            await self._forget(saved.token.token_id)
        log.info("join token %s revoked", token_id)
        return saved.token

    # Joining ------------------------------------------------------------------------------------------------------

    async def join(self, wish: JoinWish, address: str) -> None:
        """Make a member of who shows a good token. `address`: where the wish came from, without its port.

        A second time with the same digest changes nothing, so that a lost answer costs no token. Raises Forbidden,
        RateLimitExceeded, InvalidRequest.
        """
        _check(wish)
        async with self._changing:
            known = self._members.get(wish.node_id)
            if known is not None and known.member.revoked_unix_s is None:
                if hmac.compare_digest(known.digest, wish.digest):
                    return
                raise Forbidden(
                    "There is a member with this node id already. If this PC is a copy of another one, delete "
                    "node.json in its agent's folder; if it lost its secret: chorus members revoke NAME on the hub."
                )
            saved = await self._proved(wish, address)
            if sum(one.member.revoked_unix_s is None for one in self._members.values()) >= MEMBERS_LIMIT:
                raise InvalidRequest(f"There are {MEMBERS_LIMIT} members already; revoke some.")
            left = saved.token.uses_left - 1
            member = Member(
                node_id=wish.node_id,
                name=wish.name,
                address=address,
                token_id=wish.token_id,
                joined_unix_s=self._clock.unix_s(),
            )
            entry = SavedMember(member=member, digest=wish.digest)
            await self._table.admit(entry, token_uses_left=left)
            self._members[wish.node_id] = entry
            if left:
                self._tokens[wish.token_id] = dataclasses.replace(
                    saved, token=dataclasses.replace(saved.token, uses_left=left)
                )
            else:
                del self._tokens[wish.token_id]
        log.info("PC %r (%s) joined from %s by token %s", wish.name, wish.node_id, address, wish.token_id)

    async def _proved(self, wish: JoinWish, address: str) -> SavedToken:
        """The token that the wish proves. Raises Forbidden, RateLimitExceeded."""
        self._check_rate(address)
        saved = self._tokens.get(wish.token_id)
        # An unknown id costs the same comparison, so that the time tells nothing of which ids exist.
        digest = digest_of(wish.token_secret)
        right = hmac.compare_digest(_NOBODYS if saved is None else saved.digest, digest)
        if saved is not None and right and self._clock.unix_s() < saved.token.expires_unix_s:
            return saved
        self._wrong_from.setdefault(address, deque(maxlen=WRONG_PER_MINUTE)).append(self._clock.monotonic_s())
        self._wrong_from.move_to_end(address)
        if len(self._wrong_from) > ADDRESSES_LIMIT:
            self._wrong_from.popitem(last=False)
        if saved is not None and not right:
            self._wrong[wish.token_id] = self._wrong.get(wish.token_id, 0) + 1
            if self._wrong[wish.token_id] >= WRONG_SECRETS_LIMIT:
                log.warning("join token %s: wrong secrets, the last from %s; it is gone", wish.token_id, address)
                await self._forget(wish.token_id)
        raise Forbidden(NO_TOKEN)

    def _check_rate(self, address: str) -> None:
        """Raises RateLimitExceeded."""
        tries = self._wrong_from.get(address)
        if tries is None or len(tries) < WRONG_PER_MINUTE:
            return
        wait_s = tries[0] + MINUTE_S - self._clock.monotonic_s()
        if wait_s > 0:
            raise RateLimitExceeded("Too many wrong join tokens came from this address; wait.", retry_after_s=wait_s)

    # Members ------------------------------------------------------------------------------------------------------

    def check(self, claim: NodeClaim) -> NodeId:
        """The node that `claim` proves. Raises Forbidden."""
        saved = self._members.get(claim.node_id)
        right = hmac.compare_digest(_NOBODYS if saved is None else saved.digest, claim.digest)
        if saved is None or not right or saved.member.revoked_unix_s is not None:
            raise Forbidden(NO_MEMBER)
        return saved.member.node_id

    def watch(self, node_id: NodeId, ended: Callable[[], object]) -> Callable[[], None]:
        """Call `ended` once the node is no longer a member; returns what takes that back."""
        self._endings.setdefault(node_id, set()).add(ended)

        def undo() -> None:
            watchers = self._endings.get(node_id, set())
            watchers.discard(ended)
            if not watchers:
                self._endings.pop(node_id, None)

        return undo

    def members(self) -> tuple[Member, ...]:
        """Everybody who ever joined, in that order."""
        return tuple(one.member for one in self._members.values())

    async def revoke_member(self, node: str) -> Member:
        """Cut a node off, by id or name (the live one of several). A second time changes nothing. Raises NotFound."""
        async with self._changing:
            named = [one for one in self._members.values() if node in (one.member.node_id, one.member.name)]
            if not named:
                raise NotFound(f"There is no member {node[:NAME_CHARACTERS]!r}; see: chorus members")
            live = [one for one in named if one.member.revoked_unix_s is None]
            if len(live) > 1:
                raise InvalidRequest(f"There are {len(live)} members of this name; name one by its id: chorus members")
            saved = live[0] if live else named[-1]
            if live:
                now = self._clock.unix_s()
                await self._table.revoke(saved.member.node_id, now)
                saved = dataclasses.replace(saved, member=dataclasses.replace(saved.member, revoked_unix_s=now))
                self._members[saved.member.node_id] = saved
                log.info("member %s %r revoked", saved.member.node_id, saved.member.name)
        for ended in tuple(self._endings.get(saved.member.node_id, ())):
            ended()
        return saved.member

    async def _forget_expired(self) -> None:
        now = self._clock.unix_s()
        for token_id in [one for one, saved in self._tokens.items() if saved.token.expires_unix_s <= now]:
            await self._forget(token_id)

    async def _forget(self, token_id: TokenId) -> None:
        await self._table.forget_token(token_id)
        self._tokens.pop(token_id, None)
        self._wrong.pop(token_id, None)


def _check(wish: JoinWish) -> None:
    """Raises InvalidRequest."""
    if len(wish.digest) != DIGEST_BYTES:
        raise InvalidRequest("A digest is a SHA-256.", param="digest")
    if not (len(wish.node_id) == 36 and set(wish.node_id) <= set("0123456789abcdef-")):
        raise InvalidRequest("A node id is a UUID.", param="node_id")
    if not (1 <= len(wish.name) <= NAME_CHARACTERS and wish.name.isprintable()):
        raise InvalidRequest(f"A PC's name has 1-{NAME_CHARACTERS} printable characters.", param="name")
