"""Which addresses a caller may make this cluster connect to: none that only its own network can reach.

Python's own words are not enough: `is_loopback` is False for ::ffff:127.0.0.1, and 64:ff9b::7f00:1 counts as global.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from chorus_proto.errors import AddressNotAllowed
from chorus_proto.settings import SettingsError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """True for an IP address that anybody on the internet has the same way to; False also for what is no address."""
    try:
        ip = ipaddress.ip_address(address.strip("[]").partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        # Addresses of IPv4 in another dress lead to wherever that one leads.
        inner = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if ip.teredo is not None:
            return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def is_ip_address(host: str) -> bool:
    """Whether no name has to be resolved."""
    try:
        ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return False
    return True


def network_of(text: str) -> Network | None:
    """`192.168.1.0/24`, `fd00::/8`; None for what is none."""
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def check_networks(name: str, hosts: Iterable[str]) -> None:
    """Raises SettingsError when one of the setting `name` has the slash of a network and is none."""
    for one in hosts:
        if "/" in one and network_of(one) is None:
            raise SettingsError(f"{name}: {one!r} is no network, such as 192.168.1.0/24, and no host")


def in_network(address: str, network: Network) -> bool:
    """Whether `address` lies there.

    Loopback, link-local (where clouds keep their secrets) and multicast addresses do so only in a network of nothing
    else: nobody who lists 0.0.0.0/0 thinks of them.
    """
    try:
        ip = ipaddress.ip_address(address.strip("[]").partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        ip = ip.ipv4_mapped or ip
    special = ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_unspecified
    only = network.is_loopback or network.is_link_local or network.is_multicast or network.is_unspecified
    return ip in network and (only or not special)


def require_public(address: str, *, of: str) -> None:
    """Raises AddressNotAllowed. `of`: what the address belongs to, for people."""
    if not is_public(address):
        raise AddressNotAllowed(f"{of} is at {address}, which is not on the internet")
