"""The one gate in front of every route: name, page, key, scope and rate, in that order. What is not allowed is refused.

It reads the ASGI scope alone, so a handler beside Quart's must, and can, pass it too.
"""

from __future__ import annotations

import ipaddress
import logging
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import cast
from urllib.parse import unquote_to_bytes

from chorus_http.asgi import Scope
from chorus_http.buckets import Buckets
from chorus_http.exchange import Exchange
from chorus_http.hosts import Hosts
from chorus_http.known_keys import KeyWatch, KnownKeys
from chorus_http.rights import ANY_KEY, Right, right_of
from chorus_http.sessions import Sessions, token_in
from chorus_http.settings import HttpSettings
from chorus_proto.clock import Clock
from chorus_proto.cluster import Cluster
from chorus_proto.errors import Forbidden, InvalidApiKey, InvalidRequest, RateLimitExceeded
from chorus_proto.exposure import is_loopback, needs_keys
from chorus_proto.keys import LIKE_A_KEY, ApiKey, KeyClaim, claim_of

log = logging.getLogger(__name__)

WRONG_KEYS_PER_MINUTE = 5
"""From one address; the next ones are 429. A good key still gets in from there."""
ADDRESSES_LIMIT = 10_000
THIS_PC = "127.0.0.1"
USER_CHARACTERS = 128

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_KEY_IN_QUERY = re.compile(rb"(?:^|[&;])(?:api[_-]?key|access[_-]?token)=", re.IGNORECASE)


@dataclass(slots=True)
class _Told:
    """What the headers say."""

    host: list[bytes] = field(default_factory=list[bytes])
    origin: list[bytes] = field(default_factory=list[bytes])
    authorization: list[bytes] = field(default_factory=list[bytes])
    api_key: list[bytes] = field(default_factory=list[bytes])
    cookie: list[bytes] = field(default_factory=list[bytes])
    user: list[bytes] = field(default_factory=list[bytes])
    preflight: bool = False


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who has a socket open. A key is shown once, and looked at again for whatever is done with it."""

    address: str
    claim: KeyClaim | None
    told: _Told

    @property
    def name(self) -> str:
        """What its sockets are counted under."""
        return f"@{self.address}" if self.claim is None else self.claim.key_id


class Gate:
    """Of one listener."""

    def __init__(self, cluster: Cluster, settings: HttpSettings, clock: Clock) -> None:
        self._settings = settings
        self.sessions = Sessions(clock)
        self.keys_required = needs_keys(settings.host, insecure=settings.insecure, require_keys=settings.require_keys)
        self._hosts = Hosts(settings.host, allowed_hosts=settings.allowed_hosts, cors_origins=settings.cors_origins)
        self._keys = KnownKeys(cluster, clock, within_s=settings.metadata_within_s)
        self._watch = KeyWatch(self._keys)
        self._buckets = Buckets(clock, limit=ADDRESSES_LIMIT)
        self._running: Counter[str] = Counter()

    async def enter(self, exchange: Exchange, scope: Scope, rule: str | None) -> None:
        """Let the request in and tell its exchange who asks. `rule` is the route's; None when no route fits.

        Raises BadHost, Forbidden, InvalidApiKey, RateLimitExceeded, InvalidRequest, CoordinatorUnavailable.
        """
        told = _told(scope)
        method = cast("str", scope["method"])
        self._hosts.check_host(told.host, cast("str", scope["http_version"]))
        _check_query(cast("bytes", scope["query_string"]))
        if told.origin and (told.preflight or method not in _SAFE):
            self._hosts.check_origin(told.origin, told.host)
        if told.preflight and told.origin:
            return  # the browser asks on behalf of a page that may ask; it shows no key yet
        right = _right(method, rule)
        address = _address(scope)
        if right is None:
            self._admit_address(exchange, address)
            return
        claim = _claim(told) or self._session_claim(told, scope, method)
        if claim is not None:
            key = await self._checked(claim, address)
            exchange.claim = claim
            self._admit_key(exchange, key, right, _user(key, told), counts=method not in _SAFE)
            exchange.closing.callback(self._watch.add(claim, lambda: exchange.abort()))
        elif self.keys_required:
            raise InvalidApiKey("An API key is needed: send it as 'Authorization: Bearer KEY'.")
        else:
            self._admit_address(exchange, address)

    def check_page(self, scope: Scope) -> str:
        """Look at what can be told of a socket's request before its key is known; returns the address it comes from.

        A page of another site may not even read. Raises BadHost, Forbidden, InvalidApiKey.
        """
        told = _told(scope)
        self._hosts.check_host(told.host, cast("str", scope["http_version"]))
        _check_query(cast("bytes", scope["query_string"]))
        if told.origin:
            self._hosts.check_origin(told.origin, told.host)
        return _address(scope)

    async def meet(self, scope: Scope, shown: bytes | None) -> Visitor:
        """Let somebody have a socket, who shows a key in its first message or in the request that opened it.

        Raises InvalidApiKey, RateLimitExceeded, CoordinatorUnavailable.
        """
        told = _told(scope)
        if shown is not None:
            told.api_key = [shown]
            told.authorization = []
        claim = _claim(told)
        if claim is None and shown is None:
            claim = self._session_claim(told, scope, "GET")
        address = _address(scope)
        if claim is not None:
            await self._checked(claim, address)
        elif self.keys_required:
            raise InvalidApiKey("An API key is needed: send it as 'auth' of the connection, {\"key\": KEY}.")
        elif address != THIS_PC:
            self._count(f"@{address}", self._settings.address_requests_per_minute)
        return Visitor(address, claim, told)

    async def admit(self, exchange: Exchange, visitor: Visitor, right: Right, *, counts: bool) -> None:
        """Let a visitor do one thing and tell its exchange who asks. `counts`: as a request of its key.

        Raises InvalidApiKey, Forbidden, RateLimitExceeded, InvalidRequest, CoordinatorUnavailable.
        """
        if visitor.claim is not None:
            key = await self._checked(visitor.claim, visitor.address)
            self._admit_key(exchange, key, right, _user(key, visitor.told), counts=counts)
        elif visitor.address != THIS_PC:
            exchange.user = f"@{visitor.address}"
            if counts:
                self._count(exchange.user, self._settings.address_requests_per_minute)

    def until_revoked(self, visitor: Visitor, end: Callable[[], None]) -> Callable[[], None]:
        """Call `end` when the visitor's key is no longer good; returns what takes that back."""
        return (lambda: None) if visitor.claim is None else self._watch.add(visitor.claim, end)

    def _session_claim(self, told: _Told, scope: Scope, method: str) -> KeyClaim | None:
        """The key that the browser's session stands for. Raises Forbidden."""
        if not told.cookie:
            return None
        claim = self.sessions.claim(token_in(told.cookie, cast("tuple[str, int]", scope["server"])[1]))
        if claim is not None and method not in _SAFE and not told.origin:
            # A browser adds the cookie by itself, whoever asks; every one names the page that asks for a change.
            raise Forbidden("A change that is asked for with a session needs an Origin header.", param="Origin")
        return claim

    def _admit_address(self, exchange: Exchange, address: str) -> None:
        """Raises RateLimitExceeded."""
        if address != THIS_PC:
            exchange.user = f"@{address}"
            self._count(exchange.user, self._settings.address_requests_per_minute)

    def _admit_key(self, exchange: Exchange, key: ApiKey, right: Right, user: str, *, counts: bool) -> None:
        """Raises Forbidden, RateLimitExceeded."""
        if not key.may(right):
            raise Forbidden(f"This API key lacks the scope for it: {' or '.join(sorted(right))}.")
        exchange.key = key
        exchange.user = user
        if not counts:
            return
        # Named by the key too: keys of one owner may have limits of their own.
        name = f"{key.key_id}/{user}"
        limit = self._settings.key_requests_per_minute if key.requests_per_minute is None else key.requests_per_minute
        self._count(name, limit)
        most = self._settings.key_parallel if key.parallel is None else key.parallel
        if most and self._running[name] >= most:
            raise RateLimitExceeded(f"More than {most} requests at once; wait for one to end.", retry_after_s=1)
        self._running[name] += 1
        exchange.closing.callback(self._ended, name)

    def _ended(self, name: str) -> None:
        self._running[name] -= 1
        if not self._running[name]:
            del self._running[name]

    async def _checked(self, claim: KeyClaim, address: str) -> ApiKey:
        """Raises InvalidApiKey, and RateLimitExceeded for one wrong key too many."""
        try:
            return await self._keys.check(claim)
        except InvalidApiKey as error:
            wait_s = self._buckets.take(f"wrong {address}", per_minute=WRONG_KEYS_PER_MINUTE)
            if wait_s:
                message = f"{error.message} Too many wrong keys came from this address; wait before the next."
                raise RateLimitExceeded(message, retry_after_s=wait_s) from None
            raise

    def _count(self, name: str, per_minute: int) -> None:
        """Raises RateLimitExceeded. 0: no limit."""
        wait_s = self._buckets.take(name, per_minute=per_minute) if per_minute else 0.0
        if wait_s:
            raise RateLimitExceeded(f"More than {per_minute} requests in a minute; slow down.", retry_after_s=wait_s)


def _told(scope: Scope) -> _Told:
    told = _Told()
    for name, value in cast("list[tuple[bytes, bytes]]", scope["headers"]):
        match name:
            case b"host":
                told.host.append(value)
            case b"origin":
                told.origin.append(value)
            case b"authorization":
                told.authorization.append(value)
            case b"x-api-key":
                told.api_key.append(value)
            case b"cookie":
                told.cookie.append(value)
            case b"x-openwebui-user-id":
                told.user.append(value)
            case b"access-control-request-method":
                told.preflight = scope.get("method") == "OPTIONS"
            case _:
                pass
    return told


def _check_query(query: bytes) -> None:
    """Raises InvalidApiKey: addresses end up in logs, histories and referrers."""
    if query and (_KEY_IN_QUERY.search(query) or LIKE_A_KEY.search(unquote_to_bytes(query))):
        raise InvalidApiKey(
            "A key must not stand in the address, where others can read it: send it as 'Authorization: Bearer KEY'. "
            "If it was a real one, revoke it."
        )


def _right(method: str, rule: str | None) -> Right | None:
    """Raises Forbidden for a route that nobody has declared."""
    if rule is None:
        return ANY_KEY  # who may come in at all learns that there is no such path
    try:
        return right_of(method, rule)
    except KeyError:
        log.error("%s %s has no entry in rights.py and is refused to everybody", method, rule)
        raise Forbidden("This route is not open to anybody.") from None


def _claim(told: _Told) -> KeyClaim | None:
    """The key that is shown, if one is. Clients must send some key, so one that is not ours counts as none.

    Raises InvalidApiKey for what was meant as one of ours.
    """
    shown = [value[7:].strip() for value in told.authorization if value[:7].lower() == b"bearer "] + told.api_key
    claims = {claim for value in shown if (claim := claim_of(value)) is not None}
    if len(claims) > 1 or (not claims and any(LIKE_A_KEY.match(value) for value in shown)):
        raise InvalidApiKey("This is no whole API key, or there are several.")
    return next(iter(claims), None)


def _address(scope: Scope) -> str:
    client = cast("tuple[str, int] | None", scope.get("client"))
    return "unknown" if client is None else _named_address(client[0])


@lru_cache(maxsize=1024)
def _named_address(text: str) -> str:
    """Whom to count a peer as: of IPv6 its network, since one PC has as many addresses there as it likes."""
    if is_loopback(text):
        return THIS_PC
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return "unknown"
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return _named_address(str(address.ipv4_mapped))
        return str(ipaddress.IPv6Network((address, 64), strict=False).network_address)
    return text


def _user(key: ApiKey, told: _Told) -> str:
    """Raises InvalidRequest for a name that cannot be one."""
    if not key.trusted or not told.user:
        return key.owner
    name = told.user[0].decode("latin-1")
    if len(told.user) != 1 or not (1 <= len(name) <= USER_CHARACTERS and name.isascii() and name.isprintable()):
        raise InvalidRequest("This is no user id.", param="X-OpenWebUI-User-Id")
    return f"{key.owner}/{name}"
