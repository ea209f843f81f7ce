"""By which names and addresses this PC can be reached, for its certificates."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable

import psutil

HUB_NAME = "hub.chorus.internal"
"""In every certificate of a hub, and what our own dialers ask for: a hub that moved to another address, or is reached
through a forwarded port, is still the hub. Nobody else gets a certificate of its authority."""

NAMES_LIMIT = 100
_WILDCARDS = frozenset({"", "0.0.0.0", "::"})


def own_names(bound: str, more: Iterable[str] = ()) -> frozenset[str]:
    """Host names and IP addresses, in lower case. `bound`: what the listener is bound to; `more`: what settings add."""
    host = socket.gethostname().lower()
    short = host.partition(".")[0]
    names = {HUB_NAME, "localhost", host, short, f"{short}.local", *(_name(one) for one in more)}
    names |= {bound.lower().strip("[]")} - _WILDCARDS
    found = names | _addresses()
    return frozenset(sorted(one for one in found if is_ip(one) or _is_dns(one))[:NAMES_LIMIT])


def _addresses() -> set[str]:
    families = {socket.AF_INET, socket.AF_INET6}
    told = (card.address for cards in psutil.net_if_addrs().values() for card in cards if card.family in families)
    return {"127.0.0.1", "::1", *(address.partition("%")[0].lower() for address in told)}


def is_ip(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_dns(name: str) -> bool:
    """A certificate holds ASCII names only; a PC with another one is reached by its address."""
    labels = name.split(".")
    return name.isascii() and len(name) <= 253 and all(0 < len(one) <= 63 and _is_label(one) for one in labels)


def _is_label(label: str) -> bool:
    return all(letter.isalnum() or letter in "-_" for letter in label)


def _name(host: str) -> str:
    """Without port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return (host if is_ip(host) else host.partition(":")[0]).removesuffix(".").lower()
