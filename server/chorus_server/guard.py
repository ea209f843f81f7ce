"""The one gate of the gRPC port: every method has its right in a table, and one that has none is refused."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import Any, NoReturn, TypeVar, cast

import grpc
from grpc import aio

from chorus_proto.channel import ERROR_CODE_KEY
from chorus_proto.errors import ClusterError, Forbidden, InvalidApiKey
from chorus_proto.keys import ApiKey, Scope, claim_of
from chorus_proto.values import Priority
from chorus_server.keys import Keys

log = logging.getLogger(__name__)

_SERVICE = "/chorus.v1.CoordinatorService/"
_ASKERS = frozenset({Scope.INFER, Scope.CHAT, Scope.RAG})
_READERS = _ASKERS | {Scope.METRICS}
_ADMINS = frozenset({Scope.ADMIN})

RIGHTS: Mapping[str, frozenset[Scope] | None] = {
    # Agents prove themselves when they join, not by API keys.
    "/chorus.v1.NodeService/Link": None,
    "/chorus.v1.NodeService/Transfer": None,
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
"""Method -> the scopes of which one is enough; None: no key is asked for. What is not here is refused."""

_caller: ContextVar[ApiKey | None] = ContextVar("chorus_caller", default=None)


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


_Streaming = Callable[[Any, Any], AsyncIterator[Any]]  # Any: of messages of any method
Request = TypeVar("Request")
Reply = TypeVar("Reply")


class KeyGuard(aio.ServerInterceptor):
    """Looks at each call before its method does. A call ends when its key does."""

    def __init__(self, keys: Keys, *, required: bool) -> None:
        """`required` False: whoever has no key may do everything, as only people of this PC can reach the port."""
        self._keys = keys
        self._required = required

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Request, Reply] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Request, Reply] | None:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None  # UNIMPLEMENTED
        try:
            key = self._admit(handler_call_details)
        except ClusterError as error:
            log.info("refused %s: %s", handler_call_details.method, error.message)
            return _refusal(error)
        if key is not None and handler.unary_stream is not None:
            return grpc.unary_stream_rpc_method_handler(
                self._until_its_end(key, cast("_Streaming", handler.unary_stream)),
                handler.request_deserializer,
                handler.response_serializer,
            )
        if key is None or handler.stream_stream is None:
            return handler  # a short call may outlive its key
        return grpc.stream_stream_rpc_method_handler(
            self._until_its_end(key, cast("_Streaming", handler.stream_stream)),
            handler.request_deserializer,
            handler.response_serializer,
        )

    def _admit(self, details: grpc.HandlerCallDetails) -> ApiKey | None:
        """The key that was shown, if one was. Raises ClusterError."""
        method = str(details.method)
        if method not in RIGHTS:
            raise Forbidden("This method is not open to anybody.")
        allowed = RIGHTS[method]
        if allowed is None:
            return None
        shown = [value for name, value in details.invocation_metadata or () if name == "authorization"]
        if not shown and not self._required:
            return None
        key = self._key(shown)
        if not key.may(allowed):
            raise Forbidden(f"This API key lacks the scope for it: {' or '.join(sorted(allowed))}.")
        _caller.set(key)
        return key

    def _key(self, shown: list[str | bytes]) -> ApiKey:
        """Raises InvalidApiKey."""
        if len(shown) != 1:
            raise InvalidApiKey("An API key is needed here: set CHORUS_API_KEY.")
        raw = shown[0].encode() if isinstance(shown[0], str) else shown[0]
        claim = claim_of(raw.removeprefix(b"Bearer "))
        if claim is None:
            raise InvalidApiKey("That is no API key of Chorus.")
        return self._keys.check(claim)

    def _until_its_end(self, key: ApiKey, method: _Streaming) -> _Streaming:
        """`method`, over when the key is."""

        async def run(requests: object, context: aio.ServicerContext[object, object]) -> AsyncGenerator[object]:
            task = asyncio.current_task()
            ended = False

            def end() -> None:
                nonlocal ended
                ended = True
                if task is not None:
                    task.cancel()

            undo = self._keys.watch(key.key_id, end)
            try:
                async for reply in method(requests, context):
                    yield reply
            except asyncio.CancelledError:
                if not ended or task is None:
                    raise
                # Ours, and gRPC would tell nobody of it.
                task.uncancel()
                error = InvalidApiKey("This API key has been revoked or has expired.")
                await context.abort(error.surface.grpc, error.message, ((ERROR_CODE_KEY, error.code.value),))
            finally:
                undo()

        return run


def _refusal(error: ClusterError) -> grpc.RpcMethodHandler[Any, Any]:  # Any: it stands in for every method
    async def refuse(_request: object, context: aio.ServicerContext[object, object]) -> NoReturn:
        await context.abort(error.surface.grpc, error.message, ((ERROR_CODE_KEY, error.code.value),))

    # A refusal reads no request: as a stream of streams it fits every kind of method.
    return grpc.stream_stream_rpc_method_handler(refuse)
