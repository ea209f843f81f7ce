"""Names of download servers, resolved and checked in one step: what was checked is what is connected to.

A name that answers with a public address now and with ours a moment later (DNS rebinding) finds no gap to slip through.
"""

from __future__ import annotations

import re
import socket
import urllib.request
from functools import lru_cache
from typing import Protocol
from urllib.parse import urlsplit

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from chorus_proto.addresses import Network, in_network, is_ip_address, network_of, require_public
from chorus_proto.errors import AddressNotAllowed, TransferFailed

_NUMBER = re.compile(r"0[xX][0-9a-fA-F]*|[0-9]+")
"""As the last part of a host: an address to most systems, such as 127.1 (URL standard, "ends in a number")."""


class Resolver(Protocol):
    """Who knows addresses: the system's, mostly."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]: ...

    async def close(self) -> None: ...


class CheckedResolver(AbstractResolver):
    """Raises AddressNotAllowed for a name with an address that is not public, unless `hosts` has it.

    The client does not ask it about addresses that are written as such: see `require_allowed_address`.
    """

    def __init__(self, hosts: frozenset[str], inner: Resolver | None = None) -> None:
        self._hosts = hosts
        self._inner = inner or ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        if not _is_listed(host, port, self._hosts):
            for one in found:
                if not in_listed_network(one["host"], self._hosts):
                    require_public(one["host"], of=host)
        return found

    async def close(self) -> None:
        await self._inner.close()


def require_allowed_address(url: str, hosts: frozenset[str], *, of: str = "the download") -> None:
    """Raises AddressNotAllowed for an address of our own networks, TransferFailed for what is no address at all."""
    try:
        parsed = URL(url)  # as the client reads it: it makes ASCII digits of others
    except ValueError:
        raise TransferFailed(f"the address of {of} is not valid") from None
    host = parsed.raw_host or ""
    if not is_ip_address(host) and _NUMBER.fullmatch(host.rpartition(".")[2]):
        raise AddressNotAllowed(f"{of} is at an IPv4 address that is not written as four decimal numbers")
    listed = _is_listed(host, parsed.port or 0, hosts) or in_listed_network(host, hosts)
    if is_ip_address(host) and not listed:
        require_public(host, of=of)


def _is_listed(host: str, port: int, hosts: frozenset[str]) -> bool:
    bare = host.strip("[]").lower().rstrip(".")
    named = f"[{bare}]" if ":" in bare else bare
    return bare in hosts or named in hosts or f"{named}:{port}" in hosts


def in_listed_network(address: str, hosts: frozenset[str]) -> bool:
    """Whether one of `hosts` is a network, such as 192.168.1.0/24, with this address in it."""
    return any(in_network(address, network) for network in _networks(hosts))


@lru_cache(maxsize=16)
def _networks(hosts: frozenset[str]) -> tuple[Network, ...]:
    return tuple(network for one in hosts if "/" in one and (network := network_of(one)) is not None)


def own_hosts(*urls: str) -> frozenset[str]:
    """HOST:PORT of these addresses and of the proxies of the environment: the PC's owner wrote them down."""
    found: set[str] = set()
    for url in (*urls, *urllib.request.getproxies().values()):
        parts = urlsplit(url if "://" in url else f"http://{url}")
        try:
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError:
            continue
        if parts.hostname:
            named = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
            found.add(f"{named}:{port}")
    return frozenset(found)
