"""Questions of the terminal to MembershipService."""

from __future__ import annotations

from chorus_http.grpc_cluster import GrpcCluster
from chorus_proto import membership_pb2, membership_pb2_grpc
from chorus_proto.convert_membership import of_member, of_open_token
from chorus_proto.membership import Member, OpenToken


class MembershipDesk:
    """Every method raises ClusterError."""

    def __init__(self, cluster: GrpcCluster, *, within_s: float) -> None:
        self._cluster = cluster
        self._within_s = within_s

    async def create_token(self, *, expires_in_s: float, uses: int) -> tuple[OpenToken, str]:
        """The token, and its text, which is known this once."""
        request = membership_pb2.CreateJoinTokenRequest(expires_in_s=expires_in_s, uses=uses)
        made = await self._cluster.asked(
            lambda channel: membership_pb2_grpc.MembershipServiceStub(channel).CreateJoinToken(
                request, timeout=self._within_s
            )
        )
        return of_open_token(made.token), made.text

    async def tokens(self) -> tuple[OpenToken, ...]:
        found = await self._cluster.asked(
            lambda channel: membership_pb2_grpc.MembershipServiceStub(channel).ListJoinTokens(
                membership_pb2.ListJoinTokensRequest(), timeout=self._within_s
            )
        )
        return tuple(of_open_token(token) for token in found.tokens)

    async def revoke_token(self, token_id: str) -> OpenToken:
        request = membership_pb2.RevokeJoinTokenRequest(token_id=token_id)
        return of_open_token(
            await self._cluster.asked(
                lambda channel: membership_pb2_grpc.MembershipServiceStub(channel).RevokeJoinToken(
                    request, timeout=self._within_s
                )
            )
        )

    async def members(self) -> tuple[Member, ...]:
        found = await self._cluster.asked(
            lambda channel: membership_pb2_grpc.MembershipServiceStub(channel).ListMembers(
                membership_pb2.ListMembersRequest(), timeout=self._within_s
            )
        )
        return tuple(of_member(member) for member in found.members)

    async def revoke_member(self, node: str) -> Member:
        request = membership_pb2.RevokeMemberRequest(node=node)
        return of_member(
            await self._cluster.asked(
                lambda channel: membership_pb2_grpc.MembershipServiceStub(channel).RevokeMember(
                    request, timeout=self._within_s
                )
            )
        )
