"""Where a backend may be: on the internet, or where the owner of this cluster said."""

from __future__ import annotations

from urllib.parse import urlsplit

from chorus_client.transfer.checked_resolver import require_allowed_address
from chorus_proto.errors import AddressNotAllowed

_PORTS = frozenset({80, 443})
_FIRST_FREE_PORT = 1024
"""Below it only the web's own: a mail server, say, understands enough of HTTP to be harmed by it."""


def host_and_port(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def require_allowed(url: str, hosts: frozenset[str]) -> None:
    """Raises AddressNotAllowed. A name's addresses are checked when it is connected to (`CheckedResolver`).

    `hosts`: those that may lie in a network of our own, as HOST or HOST:PORT.
    """
    require_allowed_address(url, hosts, of="the backend")
    host, port = host_and_port(url)
    if port < _FIRST_FREE_PORT and port not in _PORTS and f"{host}:{port}" not in hosts:
        raise AddressNotAllowed(f"no backend may be at port {port}")
