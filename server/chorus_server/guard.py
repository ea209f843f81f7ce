"""The one gate of the gRPC port: every method has its right in a table, and one that has none is refused."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextvars import ContextVar
from enum import Enum
from typing import Any, NoReturn, TypeVar, cast

import grpc
from grpc import aio

from chorus_proto.channel import ERROR_CODE_KEY
from chorus_proto.errors import ClusterError, Forbidden, InvalidApiKey
from chorus_proto.ids import NodeId
from chorus_proto.keys import ApiKey, Scope, claim_of
from chorus_proto.membership import node_claim_of
from chorus_proto.values import Priority
from chorus_server.keys import Keys
from chorus_server.roster import NO_MEMBER, Roster

log = logging.getLogger(__name__)

_SERVICE = "/chorus.v1.CoordinatorService/"
_MEMBERSHIP = "/chorus.v1.MembershipService/"
_ASKERS = frozenset({Scope.INFER, Scope.CHAT, Scope.RAG})
_READERS = _ASKERS | {Scope.METRICS}
_ADMINS = frozenset({Scope.ADMIN})


class Proof(Enum):
    """What a method asks for that is no API key."""

    MEMBER = "a node's own secret"
    TOKEN = "a join token, which the method itself reads"


RIGHTS: Mapping[str, frozenset[Scope] | Proof] = {
    "/chorus.v1.NodeService/Link": Proof.MEMBER,
    "/chorus.v1.NodeService/Transfer": Proof.MEMBER,
    f"{_MEMBERSHIP}Join": Proof.TOKEN,
    f"{_MEMBERSHIP}CreateJoinToken": _ADMINS,
    f"{_MEMBERSHIP}ListJoinTokens": _ADMINS,
    f"{_MEMBERSHIP}RevokeJoinToken": _ADMINS,
    f"{_MEMBERSHIP}ListMembers": _ADMINS,
    f"{_MEMBERSHIP}RevokeMember": _ADMINS,
    f"{_SERVICE}Calls": _ASKERS,
    f"{_SERVICE}GetState": _READERS,
    f"{_SERVICE}GetMetrics": frozenset({Scope.METRICS}),
    f"{_SERVICE}GetQueue": frozenset({Scope.METRICS}),
    f"{_SERVICE}Explain": _ASKERS,
    f"{_SERVICE}Reassign": _ADMINS,
    f"{_SERVICE}LoadModel": _ADMINS,
    f"{_SERVICE}UnloadModel": _ADMINS,
    f"{_SERVICE}Wake": _ADMINS,
    f"{_SERVICE}DeleteModel": _ADMINS,
    f"{_SERVICE}AliasModel": _ADMINS,
    f"{_SERVICE}PullModel": _ADMINS,
    f"{_SERVICE}CopyModel": _ADMINS,
    f"{_SERVICE}ListTransfers": _ADMINS,
    f"{_SERVICE}CancelTransfer": _ADMINS,
    f"{_SERVICE}CreateKey": _ADMINS,
    f"{_SERVICE}ListKeys": _ADMINS,
    f"{_SERVICE}RevokeKey": _ADMINS,
    f"{_SERVICE}CheckKey": _ADMINS,
    f"{_SERVICE}RegisterBackend": _ADMINS,
    f"{_SERVICE}UnregisterBackend": _ADMINS,
    f"{_SERVICE}ListBackends": _ADMINS,
    f"{_SERVICE}WatchEvents": frozenset({Scope.METRICS}),
}
"""Method -> the scopes of which one is enough, or another proof. What is not here is refused."""

MEMBERS_TOO = frozenset({f"{_SERVICE}GetState"})
"""Which a node may call besides: an agent tells its owner how it goes."""

_caller: ContextVar[ApiKey | None] = ContextVar("chorus_caller", default=None)
_member: ContextVar[NodeId | None] = ContextVar("chorus_member", default=None)

_Watch = Callable[[Callable[[], object]], Callable[[], None]]
"""Calls its argument when what let the caller in is no longer good; returns what takes that back."""


def signed(user: str, key_id: str) -> tuple[str, str]:
    """On whose behalf the method that runs now works, and which key pays: what the caller tells, if it may say so."""
    key = _caller.get()
    if key is None or Scope.ADMIN in key.scopes:
        return user, key_id
    return (user if key.trusted else key.owner), key.key_id


def priority_of(told: Priority) -> Priority:
    """The class that the caller may have: durable work is only that of a front that writes it down."""
    key = _caller.get()
    if told is not Priority.DURABLE or key is None or key.trusted or Scope.ADMIN in key.scopes:
        return told
    return Priority.BATCH


def check_is(node_id: NodeId) -> None:
    """Raises Forbidden when the node that calls has proved to be another one than it says."""
    proved = _member.get()
    if proved is not None and proved != node_id:
        raise Forbidden("This is the secret of another node.")


_Streaming = Callable[[Any, Any], AsyncIterator[Any]]  # Any: of messages of any method
Request = TypeVar("Request")
Reply = TypeVar("Reply")


class KeyGuard(aio.ServerInterceptor):
    """Looks at each call before its method does. A stream ends when what let it in does."""

    def __init__(self, keys: Keys, *, required: bool, roster: Roster | None = None) -> None:
        """`required` False: whoever has no key may do everything, as only people of this PC can reach the port.

        `roster` None: every PC may be a node.
        """
        self._keys = keys
        self._required = required
        self._roster = roster

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Request, Reply] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Request, Reply] | None:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None  # UNIMPLEMENTED
        try:
            watch = self._admit(handler_call_details)
        except ClusterError as error:
            log.info("refused %s: %s", handler_call_details.method, error.message)
            return _refusal(error)
        if watch is not None and handler.unary_stream is not None:
            return grpc.unary_stream_rpc_method_handler(
                _until_its_end(watch, cast("_Streaming", handler.unary_stream)),
                handler.request_deserializer,
                handler.response_serializer,
            )
        if watch is None or handler.stream_stream is None:
            return handler  # a short call may outlive its key
        return grpc.stream_stream_rpc_method_handler(
            _until_its_end(watch, cast("_Streaming", handler.stream_stream)),
            handler.request_deserializer,
            handler.response_serializer,
        )

    def _admit(self, details: grpc.HandlerCallDetails) -> _Watch | None:
        """Lets the caller in, until `_Watch` says so when there is one. Raises ClusterError."""
        method = str(details.method)
        if method not in RIGHTS:
            raise Forbidden("This method is not open to anybody.")
        allowed = RIGHTS[method]
        if allowed is Proof.TOKEN:
            return None
        shown = [_raw(value) for name, value in details.invocation_metadata or () if name == "authorization"]
        if isinstance(allowed, Proof):
            return None if self._roster is None else self._admit_node(self._roster, shown)
        if not shown and not self._required:
            return None
        if method in MEMBERS_TOO and self._roster is not None and len(shown) == 1 and node_claim_of(shown[0]):
            return self._admit_node(self._roster, shown)
        key = self._key(shown)
        if not key.may(allowed):
            raise Forbidden(f"This API key lacks the scope for it: {' or '.join(sorted(allowed))}.")
        _caller.set(key)
        return lambda end: self._keys.watch(key.key_id, end)

    def _admit_node(self, roster: Roster, shown: list[bytes]) -> _Watch | None:
        """Raises Forbidden, InvalidApiKey."""
        if len(shown) != 1:
            raise Forbidden(NO_MEMBER)
        claim = node_claim_of(shown[0])
        if claim is not None:
            node_id = roster.check(claim)
            _member.set(node_id)
            return lambda end: roster.watch(node_id, end)
        if not self._keys.is_local(self._key(shown)):
            raise Forbidden(NO_MEMBER)
        return None  # agents and backends of the hub's own user, on its own PC

    def _key(self, shown: list[bytes]) -> ApiKey:
        """Raises InvalidApiKey."""
        if len(shown) != 1:
            raise InvalidApiKey("An API key is needed here: set CHORUS_API_KEY.")
        claim = claim_of(shown[0])
        if claim is None:
            raise InvalidApiKey("That is no API key of Chorus.")
        return self._keys.check(claim)


def _raw(value: str | bytes) -> bytes:
    """A header's value without `Bearer`."""
    return (value.encode() if isinstance(value, str) else value).removeprefix(b"Bearer ")


def _until_its_end(watch: _Watch, method: _Streaming) -> _Streaming:
    """`method`, over when what let the caller in is."""

    async def run(requests: object, context: aio.ServicerContext[object, object]) -> AsyncGenerator[object]:
        task = asyncio.current_task()
        ended = False

        def end() -> None:
            nonlocal ended
            ended = True
            if task is not None:
                task.cancel()

        undo = watch(end)
        try:
            async for reply in method(requests, context):
                yield reply
        except asyncio.CancelledError:
            if not ended or task is None:
                raise
            # Ours, and gRPC would tell nobody of it.
            task.uncancel()
            error: ClusterError = InvalidApiKey("This API key has been revoked or has expired.")
            if _member.get() is not None:
                error = Forbidden(NO_MEMBER)
            await context.abort(error.surface.grpc, error.message, ((ERROR_CODE_KEY, error.code.value),))
        finally:
            undo()

    return run


def _refusal(error: ClusterError) -> grpc.RpcMethodHandler[Any, Any]:  # Any: it stands in for every method
    async def refuse(_request: object, context: aio.ServicerContext[object, object]) -> NoReturn:
        await context.abort(error.surface.grpc, error.message, ((ERROR_CODE_KEY, error.code.value),))

    # A refusal reads no request: as a stream of streams it fits every kind of method.
    return grpc.stream_stream_rpc_method_handler(refuse)
