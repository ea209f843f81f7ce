"""HOST:PORT as people write it, and what other PCs must write to reach this one."""

from __future__ import annotations

import contextlib
import socket

from chorus_proto.settings import SettingsError


def checked_address(text: str, flag: str) -> str:
    """`text` when it is HOST:PORT ([IPV6]:PORT too).

    Raises SettingsError: without a port gRPC would silently dial 443.
    """
    host, colon, port = text.rpartition(":")
    bare_ipv6 = ":" in host and not (host.startswith("[") and host.endswith("]"))
    if not colon or not host or bare_ipv6 or "/" in host or " " in host:
        raise SettingsError(f"{flag} {text!r} is not HOST:PORT; write for example {flag} 192.168.1.10:50051")
    if not (port.isascii() and port.isdecimal() and 1 <= int(port) <= 65_535):
        raise SettingsError(f"{flag} {text!r}: the port must be 1-65535; Chorus uses 50051 by default")
    return text


def join_address(host: str, grpc_address: str) -> str:
    """HOST:PORT for `chorus agent --join` on another PC, when the coordinator is bound to `host`."""
    if host not in ("0.0.0.0", "::"):
        return grpc_address
    return f"{lan_address()}:{grpc_address.rpartition(':')[2]}"


def lan_address() -> str:
    """This PC's address in its local network; 127.0.0.1 when there is none.

    Connecting a UDP socket sends nothing: it only asks the routing table which interface would be used.
    """
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # TEST-NET-1, RFC 5737: no such host
        return str(probe.getsockname()[0])
    return "127.0.0.1"
