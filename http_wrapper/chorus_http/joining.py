"""How another PC comes in: one command for each system, and the page that tells it as a QR code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import msgspec
import segno

from chorus_proto.exposure import is_loopback
from chorus_proto.membership import OpenToken

_BORDER = 2


class TokenDesk(Protocol):
    """Where join tokens are made: the hub's roster, or the way to it."""

    async def create_token(self, *, expires_in_s: float, uses: int) -> tuple[OpenToken, str]:
        """A new token, and its text, which is known this once. Raises ClusterError."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Joining:
    """`address`: HOST:PORT of the coordinator as other PCs dial it. `lan_host`: this PC's address for them. `open`:
    False while only this PC itself is listened to."""

    address: str
    lan_host: str
    open: bool
    opening: str = ""
    """What its owner must do to open it, while it is not."""
    tokens: TokenDesk | None = None
    """Only PCs that show a token of its may join; None: every PC may."""


class SystemCommand(msgspec.Struct, frozen=True, kw_only=True):
    system: str
    lines: tuple[str, ...]


class QrCode(msgspec.Struct, frozen=True, kw_only=True):
    """An SVG path of unit squares in a view of `size` by `size`."""

    text: str
    size: int
    path: str


class JoinAnswer(msgspec.Struct, frozen=True, kw_only=True):
    open: bool
    opening: str
    address: str
    token_command: str
    """Makes a token, on the coordinator's PC, as POST /join/tokens does; empty where none is asked for."""
    commands: tuple[SystemCommand, ...]
    page: QrCode


class TokenMade(msgspec.Struct, frozen=True, kw_only=True):
    """`secret` is the token, told this once; `commands` are those of `JoinAnswer` with it."""

    secret: str
    token_id: str
    uses_left: int
    expires_unix_s: float
    commands: tuple[SystemCommand, ...]


def token_made(joining: Joining, token: OpenToken, text: str) -> TokenMade:
    return TokenMade(
        secret=text,
        token_id=token.token_id,
        uses_left=token.uses_left,
        expires_unix_s=token.expires_unix_s,
        commands=_commands(joining, text),
    )


def join_answer(joining: Joining, *, scheme: str, host: str) -> JoinAnswer:
    """`scheme` and `host` (HOST:PORT) are those of the web page as its reader sees it."""
    return JoinAnswer(
        open=joining.open,
        opening=joining.opening,
        address=joining.address,
        token_command="chorus join-token create" if joining.tokens else "",
        commands=_commands(joining, "TOKEN"),
        page=qr_code(f"{scheme}://{_seen_from_elsewhere(host, joining.lan_host)}/#/join"),
    )


def _commands(joining: Joining, token: str) -> tuple[SystemCommand, ...]:
    words = f"agent --join {joining.address}"
    # By the pipe: other users of that PC see command lines.
    shown, words = (f"echo {token} | ", f"{words} --join-token-file -") if joining.tokens else ("", words)
    unix = f"{shown}./start.sh {words}"
    return (
        SystemCommand(system="Linux", lines=(unix,)),
        SystemCommand(system="macOS", lines=(unix,)),
        SystemCommand(system="Windows", lines=(f"{shown}start_server.bat {words}",)),
        SystemCommand(system="Installed", lines=(f"{shown}chorus {words}",)),
    )


def _seen_from_elsewhere(host: str, lan_host: str) -> str:
    name, colon, port = host.rpartition(":")
    if not colon or host.endswith("]"):
        name, port = host, ""
    if not is_loopback(name.strip("[]")):
        return host
    return f"{lan_host}:{port}" if port else lan_host


def qr_code(text: str) -> QrCode:
    """With the quiet zone that readers need."""
    rows = [bytes(row) for row in segno.make(text, error="m").matrix_iter(border=_BORDER)]
    path = "".join(
        f"M{column} {row}h1v1h-1z" for row, line in enumerate(rows) for column, dark in enumerate(line) if dark
    )
    return QrCode(text=text, size=len(rows), path=path)
