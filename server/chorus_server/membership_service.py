"""The edge to PCs that want to join, and to those who rule over it: MembershipService."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

from grpc import aio

from chorus_proto import membership_pb2, membership_pb2_grpc
from chorus_proto.channel import ERROR_CODE_KEY
from chorus_proto.convert_membership import member_message, of_join, open_token_message
from chorus_proto.errors import ClusterError, InvalidRequest
from chorus_server.roster import TOKEN_LIVES_S, Roster

Request = TypeVar("Request")
Reply = TypeVar("Reply")
Answer = TypeVar("Answer")


class MembershipService(membership_pb2_grpc.MembershipServiceServicer):
    """`roster` None: the hub is not encrypted, and lets every PC in."""

    def __init__(self, roster: Roster | None) -> None:
        self._known = roster

    @property
    def _roster(self) -> Roster:
        """Raises InvalidRequest."""
        if self._known is None:
            raise InvalidRequest("This hub is not encrypted: PCs join it without a token, chorus agent --join ADDRESS.")
        return self._known

    async def Join(  # noqa: N802  # the name in the .proto
        self,
        request: membership_pb2.JoinRequest,
        context: aio.ServicerContext[membership_pb2.JoinRequest, membership_pb2.JoinReply],
    ) -> membership_pb2.JoinReply:
        await _told(context, self._join(request, context.peer()))
        return membership_pb2.JoinReply()

    async def _join(self, request: membership_pb2.JoinRequest, peer: str) -> None:
        await self._roster.join(of_join(request), peer.partition(":")[2].rpartition(":")[0] or peer)

    async def CreateJoinToken(  # noqa: N802  # the name in the .proto
        self,
        request: membership_pb2.CreateJoinTokenRequest,
        context: aio.ServicerContext[membership_pb2.CreateJoinTokenRequest, membership_pb2.CreateJoinTokenReply],
    ) -> membership_pb2.CreateJoinTokenReply:
        return await _told(context, self._create(request))

    async def _create(self, request: membership_pb2.CreateJoinTokenRequest) -> membership_pb2.CreateJoinTokenReply:
        token, text = await self._roster.create_token(
            expires_in_s=request.expires_in_s or TOKEN_LIVES_S, uses=request.uses or 1
        )
        return membership_pb2.CreateJoinTokenReply(token=open_token_message(token), text=text)

    async def ListJoinTokens(  # noqa: N802  # the name in the .proto
        self,
        request: membership_pb2.ListJoinTokensRequest,
        context: aio.ServicerContext[membership_pb2.ListJoinTokensRequest, membership_pb2.JoinTokenList],
    ) -> membership_pb2.JoinTokenList:
        tokens = () if self._known is None else self._known.tokens()
        return membership_pb2.JoinTokenList(tokens=[open_token_message(token) for token in tokens])

    async def RevokeJoinToken(  # noqa: N802  # the name in the .proto
        self,
        request: membership_pb2.RevokeJoinTokenRequest,
        context: aio.ServicerContext[membership_pb2.RevokeJoinTokenRequest, membership_pb2.OpenJoinToken],
    ) -> membership_pb2.OpenJoinToken:
        return await _told(context, self._revoke_token(request.token_id))

    async def _revoke_token(self, token_id: str) -> membership_pb2.OpenJoinToken:
        return open_token_message(await self._roster.revoke_token(token_id))

    async def ListMembers(  # noqa: N802  # the name in the .proto
        self,
        request: membership_pb2.ListMembersRequest,
        context: aio.ServicerContext[membership_pb2.ListMembersRequest, membership_pb2.MemberList],
    ) -> membership_pb2.MemberList:
        members = () if self._known is None else self._known.members()
        return membership_pb2.MemberList(members=[member_message(member) for member in members])

    async def RevokeMember(  # noqa: N802  # the name in the .proto
        self,
        request: membership_pb2.RevokeMemberRequest,
        context: aio.ServicerContext[membership_pb2.RevokeMemberRequest, membership_pb2.Member],
    ) -> membership_pb2.Member:
        return await _told(context, self._revoke_member(request.node))

    async def _revoke_member(self, node: str) -> membership_pb2.Member:
        return member_message(await self._roster.revoke_member(node))


async def _told(context: aio.ServicerContext[Request, Reply], answer: Awaitable[Answer]) -> Answer:
    """`answer`, or the end of the call with its ClusterError."""
    try:
        return await answer
    except ClusterError as error:
        await context.abort(error.surface.grpc, error.message, ((ERROR_CODE_KEY, error.code.value),))
