"""How a PC becomes a node of an encrypted hub: a join token once, a secret of its own from then on.

A join token is `chorus1.<SHA-256 of the hub's authority>.<id>.<secret>`: it tells the PC whom to trust, and the hub
whom to admit. A node's secret is made by the node itself. Of both the hub keeps the SHA-256 only; against 130 and 256
random bits a slow hash would add nothing.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from dataclasses import dataclass, field
from typing import NewType

from chorus_proto.ids import NodeId

TokenId = NewType("TokenId", str)

_TOKEN = re.compile(r"chorus1\.([0-9a-f]{64})\.([a-z2-7]{6})\.([a-z2-7]{26})")
_BEARER = re.compile(rb"chorusnode_([0-9a-f-]{36})_([A-Za-z0-9_-]{43})")
FINGERPRINT = re.compile(r"[0-9a-f]{64}")
DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinToken:
    fingerprint: str
    """SHA-256 of the hub's authority, 64 hexadecimal digits."""
    token_id: TokenId
    secret: str = field(repr=False)

    @property
    def text(self) -> str:
        return f"chorus1.{self.fingerprint}.{self.token_id}.{self.secret}"


def join_token_of(text: str) -> JoinToken | None:
    """None when `text` is no join token."""
    found = _TOKEN.fullmatch(text.strip())
    if found is None:
        return None
    return JoinToken(fingerprint=found[1], token_id=TokenId(found[2]), secret=found[3])


def new_join_token(fingerprint: str) -> JoinToken:
    """30 random bits to name it, 130 to prove it."""
    return JoinToken(fingerprint=fingerprint, token_id=TokenId(_base32(6)), secret=_base32(26))


def _base32(letters: int) -> str:
    return base64.b32encode(secrets.token_bytes(letters)).decode().lower()[:letters]


def new_node_secret() -> str:
    """256 random bits."""
    return secrets.token_urlsafe(32)


def digest_of(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def node_bearer(node_id: NodeId, secret: str) -> str:
    """What a node shows with each call."""
    return f"chorusnode_{node_id}_{secret}"


@dataclass(frozen=True, slots=True)
class NodeClaim:
    """Proof that somebody is a node: its id and the SHA-256 of its secret."""

    node_id: NodeId
    digest: bytes = field(repr=False)


def node_claim_of(bearer: bytes) -> NodeClaim | None:
    """What `bearer` claims; None when it is no node's."""
    found = _BEARER.fullmatch(bearer)
    if found is None:
        return None
    return NodeClaim(NodeId(found[1].decode()), hashlib.sha256(found[2]).digest())


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenToken:
    """A join token that may still be used, without its secret. Times are seconds since 1970."""

    token_id: TokenId
    created_unix_s: float
    expires_unix_s: float
    uses_left: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A PC that has joined."""

    node_id: NodeId
    name: str
    address: str
    """Where it joined from."""
    token_id: TokenId
    joined_unix_s: float
    revoked_unix_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinWish:
    """What a PC says that wants to become a node."""

    token_id: TokenId
    token_secret: str = field(repr=False)
    node_id: NodeId
    name: str
    digest: bytes = field(repr=False)
    """SHA-256 of the secret that the node will show."""
