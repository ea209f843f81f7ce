"""The tables of join tokens and of the PCs that have joined. Of secrets only the SHA-256 is kept."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field

from chorus_proto.ids import NodeId
from chorus_proto.membership import Member, OpenToken, TokenId
from chorus_proto.sqlite.writer import Writer


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedToken:
    """A join token and the SHA-256 of its secret."""

    token: OpenToken
    digest: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedMember:
    """A node and the SHA-256 of the secret that it shows."""

    member: Member
    digest: bytes = field(repr=False)


class MemberTable:
    """A method returns once its change is on the disk, and raises what `Writer.do` raises."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def add_token(self, saved: SavedToken) -> None:
        token = saved.token
        row = (token.token_id, saved.digest, token.created_unix_s, token.expires_unix_s, token.uses_left)

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT INTO join_token (token_id, digest, created_unix_s, expires_unix_s, uses_left)"
                " VALUES (?, ?, ?, ?, ?)",
                row,
            )

        await self._writer.do(work)

    async def forget_token(self, token_id: TokenId) -> None:
        def work(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM join_token WHERE token_id = ?", (token_id,))

        await self._writer.do(work)

    async def admit(self, saved: SavedMember, *, token_uses_left: int) -> None:
        """Add the node, or take the place of what was known of it, and count its token as used; both or neither."""
        member = saved.member
        row = (member.node_id, saved.digest, member.name, member.address, member.token_id, member.joined_unix_s)

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT OR REPLACE INTO member (node_id, digest, name, address, token_id, joined_unix_s)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                row,
            )
            connection.execute(
                "UPDATE join_token SET uses_left = ? WHERE token_id = ?", (token_uses_left, member.token_id)
            )
            connection.execute("DELETE FROM join_token WHERE uses_left <= 0")

        await self._writer.do(work)

    async def revoke(self, node_id: NodeId, when_unix_s: float) -> None:
        def work(connection: sqlite3.Connection) -> None:
            connection.execute("UPDATE member SET revoked_unix_s = ? WHERE node_id = ?", (when_unix_s, node_id))

        await self._writer.do(work)

    async def tokens(self) -> list[SavedToken]:
        """Expired ones too, in the order of their making."""
        rows = await self._writer.do(
            lambda c: c.execute(
                "SELECT token_id, digest, created_unix_s, expires_unix_s, uses_left FROM join_token"
                " ORDER BY created_unix_s, token_id"
            ).fetchall()
        )
        return [
            SavedToken(
                token=OpenToken(
                    token_id=TokenId(token_id), created_unix_s=created, expires_unix_s=expires, uses_left=uses_left
                ),
                digest=digest,
            )
            for token_id, digest, created, expires, uses_left in rows
        ]

    async def members(self) -> list[SavedMember]:
        """Revoked ones too, in the order of their joining."""
        rows = await self._writer.do(
            lambda c: c.execute(
                "SELECT node_id, digest, name, address, token_id, joined_unix_s, revoked_unix_s FROM member"
                " ORDER BY joined_unix_s, node_id"
            ).fetchall()
        )
        return [
            SavedMember(
                member=Member(
                    node_id=NodeId(node_id),
                    name=name,
                    address=address,
                    token_id=TokenId(token_id),
                    joined_unix_s=joined,
                    revoked_unix_s=revoked,
                ),
                digest=digest,
            )
            for node_id, digest, name, address, token_id, joined, revoked in rows
        ]
