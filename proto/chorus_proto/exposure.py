"""Fail closed: a server that others on the LAN can reach needs keys and TLS, or an explicit word that it does not."""

from __future__ import annotations

import ipaddress

from chorus_proto.settings import SettingsError


def is_loopback(host: str) -> bool:
    """True when only this PC can reach a server bound to `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def refuse_exposure(what: str, host: str, *, insecure: bool) -> None:
    """Raises SettingsError when `host` opens `what` to other PCs without protection and nobody allowed that."""
    if is_loopback(host) or insecure:
        return
    raise SettingsError(
        f"{what} would listen on {host} for every PC that can reach it, without keys and TLS; "
        "add --insecure to allow that on a network you trust, or use --host 127.0.0.1"
    )
