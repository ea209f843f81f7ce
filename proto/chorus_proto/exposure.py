"""Fail closed: a server that others on the LAN can reach needs keys and TLS, or an explicit word that it does not."""

from __future__ import annotations

import ipaddress

from chorus_proto.settings import SettingsError

REQUIRE_KEYS = "ask every caller for an API key; unless told, only beyond this PC and without --insecure"
TLS = "encrypt, and admit other PCs only by join tokens; unless told, only beyond this PC and without --insecure"
ALLOWED_HOSTS = "further names that this server may be known by"
INSECURE = "listen beyond this PC without encryption, keys and join tokens, on a network that you trust"


def is_loopback(host: str) -> bool:
    """True when only this PC can reach a server bound to `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def needs_keys(host: str, *, insecure: bool, require_keys: bool | None) -> bool:
    """Whether a server bound to `host` asks its callers for a key."""
    return (not is_loopback(host) and not insecure) if require_keys is None else require_keys


def encrypts(host: str, *, insecure: bool, tls: bool | None) -> bool:
    """Whether a server bound to `host` speaks TLS."""
    return (not is_loopback(host) and not insecure) if tls is None else tls


def refuse_exposure(what: str, host: str, *, insecure: bool, encrypted: bool, keys: bool) -> None:
    """Raises SettingsError when `host` opens `what` to other PCs without protection and nobody allowed that."""
    if is_loopback(host) or insecure or (encrypted and keys):
        return
    lacks = " and ".join(name for name, there in (("keys", keys), ("TLS", encrypted)) if not there)
    flags = " and ".join(flag for flag, there in (("--no-require-keys", keys), ("--no-tls", encrypted)) if not there)
    raise SettingsError(
        f"{what} would listen on {host} for every PC that can reach it, without {lacks}; leave out {flags}, "
        "add --insecure to allow that on a network you trust, or use --host 127.0.0.1"
    )
