"""Which names this server answers to, and which web pages may write to it.

A page of another site can make its own name resolve to this PC (DNS rebinding); the browser then tells that name in
`Host`. An address in digits cannot be rebound, so a server that listens on all addresses takes any of those.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable

from chorus_proto.errors import BadHost, Forbidden
from chorus_proto.exposure import is_loopback

_WILDCARDS = frozenset({"", "0.0.0.0", "::"})
_OWN_NAMES = frozenset({"localhost", "host.docker.internal"})
"""The second is what containers call the PC that they run on; nobody can register a name under .internal."""

_REMEMBERED = 256


class Hosts:
    """The allow-list of one listener."""

    def __init__(self, bound: str, *, allowed_hosts: Iterable[str], cors_origins: Iterable[str]) -> None:
        """`bound` is what the listener is bound to, `allowed_hosts` what the settings add."""
        self._every_address = bound in _WILDCARDS
        own = socket.gethostname().lower()
        self._names = {*_OWN_NAMES, own, f"{own}.local", *(_name(host) for host in allowed_hosts)}
        self._names |= {bound.lower()} - _WILDCARDS
        self._origins = frozenset(origin.encode() for origin in cors_origins)
        self._good: set[bytes] = set()

    def check_host(self, told: list[bytes], http_version: str) -> None:
        """Raises BadHost unless exactly one Host header names this server. HTTP/1.0, which probes speak, needs none."""
        if not told and http_version == "1.0":
            return
        if len(told) != 1:
            raise BadHost("The request needs one Host header.", param="Host")
        if told[0] in self._good:
            return
        if not self._is_own(told[0]):
            raise BadHost(
                "This server does not go by the name in the Host header; its owner can add it to allowed_hosts.",
                param="Host",
            )
        if len(self._good) < _REMEMBERED:
            self._good.add(told[0])

    def check_origin(self, told: list[bytes], host: list[bytes]) -> None:
        """Raises Forbidden for a page that is neither of this server nor of an origin that the settings name."""
        origin = told[0]
        same = bool(host) and origin.partition(b"://")[2].lower() == host[0].lower()
        if len(told) != 1 or not (same or origin in self._origins):
            raise Forbidden(
                "A web page of another site may not do this; this server's owner can name its origin in cors_origins.",
                param="Origin",
            )

    def _is_own(self, told: bytes) -> bool:
        name = _name(told.decode("latin-1"))
        if name in self._names or is_loopback(name):
            return True
        if not self._every_address:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def _name(host: str) -> str:
    """Without port, brackets and the root's dot, in lower case."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].removesuffix(".").lower()
