"""API keys: what they look like, what they allow, and how one is proved without its secret travelling on.

A key is `chorus_<id>_<secret>`: 8 hexadecimal digits that name it, and 256 random bits. Only the SHA-256 of the secret
is kept and sent between our processes; against 256 random bits a slow hash would add nothing.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import NewType

import msgspec

from chorus_proto.exposure import is_loopback
from chorus_proto.generation import ThoughtField

KeyId = NewType("KeyId", str)

_WRITTEN = re.compile(rb"chorus_([0-9a-f]{8})_([A-Za-z0-9_-]{43})")
LIKE_A_KEY = re.compile(rb"chorus_[0-9a-f]{8}_")
"""What somebody meant as a key of ours, whole or not."""

LOCAL_KEY_FILE = "local.key"
"""In the state folder: how the commands of this PC, and of the same user, prove themselves to its coordinator."""


class Scope(StrEnum):
    INFER = "infer"
    CHAT = "chat"
    RAG = "rag"
    METRICS = "metrics"
    ADMIN = "admin"
    """Everything, the other scopes included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """One key without its secret. Times are seconds since 1970."""

    key_id: KeyId
    name: str
    owner: str
    """Who answers for what is asked with it; several keys of one owner share that owner's fair share."""
    scopes: tuple[Scope, ...]
    created_unix_s: float
    expires_unix_s: float | None = None
    last_used_unix_s: float | None = None
    revoked_unix_s: float | None = None
    requests_per_minute: int | None = None
    """None: the HTTP wrapper's setting."""
    parallel: int | None = None
    """Requests at once of each of its users; None: the HTTP wrapper's setting."""
    tokens_per_day: int | None = None
    """Read and written; None: no limit."""
    tokens_today: int = 0
    """Read and written since 0:00 UTC, as far as the coordinator has heard."""
    trusted: bool = False
    """Its bearer is a front of ours, as Open WebUI is, and may say on whose behalf it asks."""
    thought_field: ThoughtField | None = None
    """How its bearer's client reads thoughts in OpenAI's chat; None: as the request has it."""

    def may(self, allowed: frozenset[Scope]) -> bool:
        """True when one of its scopes is among `allowed`."""
        return Scope.ADMIN in self.scopes or not allowed.isdisjoint(self.scopes)

    def is_live(self, now_unix_s: float) -> bool:
        """Neither revoked nor expired."""
        return self.revoked_unix_s is None and (self.expires_unix_s is None or now_unix_s < self.expires_unix_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """The wish for a key; see `ApiKey`."""

    name: str
    scopes: tuple[Scope, ...]
    owner: str = ""
    """Empty: the name."""
    expires_in_s: float | None = None
    requests_per_minute: int | None = None
    parallel: int | None = None
    tokens_per_day: int | None = None
    trusted: bool = False
    thought_field: ThoughtField | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeKey:
    """A key that has just been made: the one time that its secret is known."""

    key: ApiKey
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeyClaim:
    """Proof that somebody holds a key: its id and the SHA-256 of its secret."""

    key_id: KeyId
    digest: bytes = field(repr=False)


def key_text() -> tuple[KeyId, str]:
    """A new key's id and the whole of its text."""
    key_id = KeyId(secrets.token_hex(4))
    return key_id, f"chorus_{key_id}_{secrets.token_urlsafe(32)}"


def claim_of(text: bytes) -> KeyClaim | None:
    """What `text` claims; None when it is no key of ours."""
    found = _WRITTEN.fullmatch(text)
    if found is None:
        return None
    return KeyClaim(KeyId(found[1].decode()), hashlib.sha256(found[2]).digest())


class LocalKey(msgspec.Struct, frozen=True):
    """The content of `LOCAL_KEY_FILE`: a key that is good for one run of the coordinator at `address` (HOST:PORT)."""

    address: str
    text: str
    ca_pem: str = ""
    """The authority of its certificate; empty: it is not encrypted."""

    def encoded(self) -> bytes:
        return msgspec.json.encode(self)


def local_hub(state_dir: Path, address: str) -> LocalKey | None:
    """What the coordinator at `address` left for this PC, if it runs here with this state folder."""
    try:
        found = msgspec.json.decode((state_dir.expanduser() / LOCAL_KEY_FILE).read_bytes(), type=LocalKey)
    except (OSError, RuntimeError, msgspec.MsgspecError):
        return None
    host, _, port = address.rpartition(":")
    its_host, _, its_port = found.address.rpartition(":")
    # Never to a stranger: the port must be that coordinator's, and the host this PC.
    same_host = host == its_host or (is_loopback(host) and is_loopback(its_host))
    return found if same_host and port == its_port else None


def local_key(state_dir: Path, address: str) -> str:
    """The key for the coordinator at `address`, if that one runs on this PC with this state folder; else empty."""
    found = local_hub(state_dir, address)
    return "" if found is None else found.text
