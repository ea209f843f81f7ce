"""Which addresses a caller may make this cluster connect to: none that only its own network can reach.

Python's own words are not enough: `is_loopback` is False for ::ffff:127.0.0.1, and 64:ff9b::7f00:1 counts as global.
"""

from __future__ import annotations

import ipaddress

from chorus_proto.errors import AddressNotAllowed

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


def require_public(address: str, *, of: str) -> None:
    """Raises AddressNotAllowed. `of`: what the address belongs to, for people."""
    if not is_public(address):
        raise AddressNotAllowed(f"{of} is at {address}, which is not on the internet")
