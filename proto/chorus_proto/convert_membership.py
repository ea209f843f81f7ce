"""Members and join tokens on MembershipService, to the values of `membership.py` and back."""

from __future__ import annotations

from chorus_proto import membership_pb2
from chorus_proto.ids import NodeId
from chorus_proto.membership import JoinWish, Member, OpenToken, TokenId


def open_token_message(token: OpenToken) -> membership_pb2.OpenJoinToken:
    return membership_pb2.OpenJoinToken(
        token_id=token.token_id,
        created_unix_s=token.created_unix_s,
        expires_unix_s=token.expires_unix_s,
        uses_left=token.uses_left,
    )


def of_open_token(message: membership_pb2.OpenJoinToken) -> OpenToken:
    return OpenToken(
        token_id=TokenId(message.token_id),
        created_unix_s=message.created_unix_s,
        expires_unix_s=message.expires_unix_s,
        uses_left=message.uses_left,
    )


def member_message(member: Member) -> membership_pb2.Member:
    return membership_pb2.Member(
        node_id=member.node_id,
        name=member.name,
        address=member.address,
        token_id=member.token_id,
        joined_unix_s=member.joined_unix_s,
        revoked_unix_s=member.revoked_unix_s,
    )


def of_member(message: membership_pb2.Member) -> Member:
    return Member(
        node_id=NodeId(message.node_id),
        name=message.name,
        address=message.address,
        token_id=TokenId(message.token_id),
        joined_unix_s=message.joined_unix_s,
        revoked_unix_s=message.revoked_unix_s if message.HasField("revoked_unix_s") else None,
    )


def join_message(wish: JoinWish) -> membership_pb2.JoinRequest:
    return membership_pb2.JoinRequest(
        token_id=wish.token_id,
        token_secret=wish.token_secret,
        node_id=wish.node_id,
        name=wish.name,
        digest=wish.digest,
    )


def of_join(message: membership_pb2.JoinRequest) -> JoinWish:
    return JoinWish(
        token_id=TokenId(message.token_id),
        token_secret=message.token_secret,
        node_id=NodeId(message.node_id),
        name=message.name,
        digest=message.digest,
    )
