"""Every refusal and failure that crosses a process boundary, and the one table that says how each edge shows it.

A module that knows a fact raises the typed error; edges look the code up in `SURFACE` and nowhere else.
Longer than other files, because the catalogue of what can go wrong is read as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

import grpc


class ErrorCode(StrEnum):
    INVALID_REQUEST = "invalid_request"
    INVALID_JSON = "invalid_json"
    UNKNOWN_PARAMETER = "unknown_parameter"
    UNSUPPORTED_PARAMETER = "unsupported_parameter"
    CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"
    BODY_TOO_LARGE = "body_too_large"
    INVALID_API_KEY = "invalid_api_key"
    FORBIDDEN = "forbidden"
    BAD_HOST = "bad_host"
    ADDRESS_NOT_ALLOWED = "address_not_allowed"
    RATE_LIMIT_EXCEEDED = "rate_limit_exceeded"
    MODEL_NOT_FOUND = "model_not_found"
    NODE_NOT_FOUND = "node_not_found"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    NO_REPLICA = "no_replica"
    NO_NODES = "no_nodes"
    QUEUE_FULL = "queue_full"
    QUEUE_TIMEOUT = "queue_timeout"
    DRAINING = "draining"
    COORDINATOR_UNAVAILABLE = "coordinator_unavailable"
    NODE_LOST = "node_lost"
    ENGINE_FAILED = "engine_failed"
    ENGINE_DIED = "engine_died"
    ENGINE_UNAVAILABLE = "engine_unavailable"
    REQUEST_CRASHES_ENGINE = "request_crashes_engine"
    INSUFFICIENT_MEMORY = "insufficient_memory"
    INSUFFICIENT_STORAGE = "insufficient_storage"
    TRANSFER_FAILED = "transfer_failed"
    LOAD_FAILED = "load_failed"
    CRASH_LOOP = "crash_loop"
    MODEL_DAMAGED = "model_damaged"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    SLOW_CONSUMER = "slow_consumer"
    CANCELLED = "cancelled"
    NO_ANSWER = "no_answer"
    UNREADABLE_DOCUMENT = "unreadable_document"
    EXPANDED_TOO_LARGE = "expanded_too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    EMBEDDING_MODEL_CHANGED = "embedding_model_changed"
    SESSION_BUSY = "session_busy"
    STORE_UNAVAILABLE = "store_unavailable"
    VERSION_MISMATCH = "version_mismatch"
    DUPLICATE_NODE = "duplicate_node"
    UNSUPPORTED = "unsupported"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Surface:
    """How one error looks outside; `retryable`: another node may try while no token has been shown."""

    grpc: grpc.StatusCode
    http: int
    retryable: bool = False


_GRPC = grpc.StatusCode

SURFACE: dict[ErrorCode, Surface] = {
    ErrorCode.INVALID_REQUEST: Surface(grpc=_GRPC.INVALID_ARGUMENT, http=400),
    ErrorCode.INVALID_JSON: Surface(grpc=_GRPC.INVALID_ARGUMENT, http=400),
    ErrorCode.UNKNOWN_PARAMETER: Surface(grpc=_GRPC.INVALID_ARGUMENT, http=400),
    ErrorCode.UNSUPPORTED_PARAMETER: Surface(grpc=_GRPC.INVALID_ARGUMENT, http=400),
    ErrorCode.CONTEXT_LENGTH_EXCEEDED: Surface(grpc=_GRPC.INVALID_ARGUMENT, http=400),
    ErrorCode.BODY_TOO_LARGE: Surface(grpc=_GRPC.INVALID_ARGUMENT, http=413),
    ErrorCode.INVALID_API_KEY: Surface(grpc=_GRPC.UNAUTHENTICATED, http=401),
    ErrorCode.FORBIDDEN: Surface(grpc=_GRPC.PERMISSION_DENIED, http=403),
    ErrorCode.BAD_HOST: Surface(grpc=_GRPC.INVALID_ARGUMENT, http=400),
    ErrorCode.ADDRESS_NOT_ALLOWED: Surface(grpc=_GRPC.INVALID_ARGUMENT, http=400),
    ErrorCode.RATE_LIMIT_EXCEEDED: Surface(grpc=_GRPC.RESOURCE_EXHAUSTED, http=429),
    ErrorCode.MODEL_NOT_FOUND: Surface(grpc=_GRPC.NOT_FOUND, http=404),
    ErrorCode.NODE_NOT_FOUND: Surface(grpc=_GRPC.NOT_FOUND, http=404),
    ErrorCode.NOT_FOUND: Surface(grpc=_GRPC.NOT_FOUND, http=404),
    ErrorCode.METHOD_NOT_ALLOWED: Surface(grpc=_GRPC.UNIMPLEMENTED, http=405),
    ErrorCode.NO_REPLICA: Surface(grpc=_GRPC.UNAVAILABLE, http=503, retryable=True),
    ErrorCode.NO_NODES: Surface(grpc=_GRPC.UNAVAILABLE, http=503),
    ErrorCode.QUEUE_FULL: Surface(grpc=_GRPC.RESOURCE_EXHAUSTED, http=503),
    ErrorCode.QUEUE_TIMEOUT: Surface(grpc=_GRPC.RESOURCE_EXHAUSTED, http=503),
    ErrorCode.DRAINING: Surface(grpc=_GRPC.UNAVAILABLE, http=503),
    ErrorCode.COORDINATOR_UNAVAILABLE: Surface(grpc=_GRPC.UNAVAILABLE, http=503),
    ErrorCode.NODE_LOST: Surface(grpc=_GRPC.UNAVAILABLE, http=502, retryable=True),
    ErrorCode.ENGINE_FAILED: Surface(grpc=_GRPC.INTERNAL, http=502, retryable=True),
    ErrorCode.ENGINE_DIED: Surface(grpc=_GRPC.INTERNAL, http=502, retryable=True),
    ErrorCode.ENGINE_UNAVAILABLE: Surface(grpc=_GRPC.UNAVAILABLE, http=503, retryable=True),
    ErrorCode.REQUEST_CRASHES_ENGINE: Surface(grpc=_GRPC.FAILED_PRECONDITION, http=422),
    ErrorCode.INSUFFICIENT_MEMORY: Surface(grpc=_GRPC.RESOURCE_EXHAUSTED, http=503),
    ErrorCode.INSUFFICIENT_STORAGE: Surface(grpc=_GRPC.RESOURCE_EXHAUSTED, http=507),
    ErrorCode.TRANSFER_FAILED: Surface(grpc=_GRPC.UNAVAILABLE, http=502),
    ErrorCode.LOAD_FAILED: Surface(grpc=_GRPC.UNAVAILABLE, http=503, retryable=True),
    ErrorCode.CRASH_LOOP: Surface(grpc=_GRPC.UNAVAILABLE, http=503, retryable=True),
    ErrorCode.MODEL_DAMAGED: Surface(grpc=_GRPC.DATA_LOSS, http=503, retryable=True),
    ErrorCode.DEADLINE_EXCEEDED: Surface(grpc=_GRPC.DEADLINE_EXCEEDED, http=504),
    ErrorCode.SLOW_CONSUMER: Surface(grpc=_GRPC.RESOURCE_EXHAUSTED, http=503),
    ErrorCode.CANCELLED: Surface(grpc=_GRPC.CANCELLED, http=499),
    ErrorCode.NO_ANSWER: Surface(grpc=_GRPC.UNAVAILABLE, http=502),
    ErrorCode.UNREADABLE_DOCUMENT: Surface(grpc=_GRPC.INVALID_ARGUMENT, http=422),
    ErrorCode.EXPANDED_TOO_LARGE: Surface(grpc=_GRPC.INVALID_ARGUMENT, http=413),
    ErrorCode.UNSUPPORTED_MEDIA_TYPE: Surface(grpc=_GRPC.INVALID_ARGUMENT, http=415),
    ErrorCode.EMBEDDING_MODEL_CHANGED: Surface(grpc=_GRPC.FAILED_PRECONDITION, http=409),
    ErrorCode.SESSION_BUSY: Surface(grpc=_GRPC.FAILED_PRECONDITION, http=409),
    ErrorCode.STORE_UNAVAILABLE: Surface(grpc=_GRPC.UNAVAILABLE, http=503),
    ErrorCode.VERSION_MISMATCH: Surface(grpc=_GRPC.FAILED_PRECONDITION, http=409),
    ErrorCode.DUPLICATE_NODE: Surface(grpc=_GRPC.ALREADY_EXISTS, http=409),
    ErrorCode.UNSUPPORTED: Surface(grpc=_GRPC.UNIMPLEMENTED, http=501),
    ErrorCode.INTERNAL: Surface(grpc=_GRPC.INTERNAL, http=500),
}


class ClusterError(Exception):
    """A fact about the cluster or the request that the caller must hear. `param` names the field at fault."""

    code: ClassVar[ErrorCode] = ErrorCode.INTERNAL

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s

    @property
    def surface(self) -> Surface:
        return SURFACE[self.code]


class InvalidRequest(ClusterError):
    """A field is missing, of the wrong type or out of range."""

    code = ErrorCode.INVALID_REQUEST


class InvalidJson(ClusterError):
    """The body is not one JSON object in UTF-8."""

    code = ErrorCode.INVALID_JSON


class UnknownParameter(ClusterError):
    """A field that this API does not have."""

    code = ErrorCode.UNKNOWN_PARAMETER


class UnsupportedParameter(ClusterError):
    """A field that the API has and that nothing here can honour."""

    code = ErrorCode.UNSUPPORTED_PARAMETER


class ContextLengthExceeded(ClusterError):
    """The prompt does not fit the model's context; the message holds both numbers."""

    code = ErrorCode.CONTEXT_LENGTH_EXCEEDED


class BodyTooLarge(ClusterError):
    """The body is over its limit."""

    code = ErrorCode.BODY_TOO_LARGE


class InvalidApiKey(ClusterError):
    """No key, an unknown one, or one that has been revoked or has expired; the message never repeats it."""

    code = ErrorCode.INVALID_API_KEY


class Forbidden(ClusterError):
    """The caller is known, and may not do this."""

    code = ErrorCode.FORBIDDEN


class BadHost(ClusterError):
    """The request names a host that this server is not."""

    code = ErrorCode.BAD_HOST


class AddressNotAllowed(ClusterError):
    """The cluster connects to no such address for a caller: it lies in a network of its own, not on the internet."""

    code = ErrorCode.ADDRESS_NOT_ALLOWED


class RateLimitExceeded(ClusterError):
    """More requests than this key or address may send; `retry_after_s` says when the next one may come."""

    code = ErrorCode.RATE_LIMIT_EXCEEDED


class ModelNotFound(ClusterError):
    """No node has this model; the message names the closest ones."""

    code = ErrorCode.MODEL_NOT_FOUND


class NodeNotFound(ClusterError):
    """No node has this id or name."""

    code = ErrorCode.NODE_NOT_FOUND


class NotFound(ClusterError):
    """No such path or thing."""

    code = ErrorCode.NOT_FOUND


class MethodNotAllowed(ClusterError):
    """The path exists, the method does not."""

    code = ErrorCode.METHOD_NOT_ALLOWED


class NoReplica(ClusterError):
    """No ready replica serves this model."""

    code = ErrorCode.NO_REPLICA


class NoNodes(ClusterError):
    """No node is connected."""

    code = ErrorCode.NO_NODES


class QueueFull(ClusterError):
    """As many requests wait as the queue holds."""

    code = ErrorCode.QUEUE_FULL


class QueueTimeout(ClusterError):
    """No slot came free within the caller's queue wait."""

    code = ErrorCode.QUEUE_TIMEOUT


class Draining(ClusterError):
    """This process is shutting down and takes nothing new."""

    code = ErrorCode.DRAINING


class CoordinatorUnavailable(ClusterError):
    """The coordinator cannot be reached."""

    code = ErrorCode.COORDINATOR_UNAVAILABLE


class NodeLost(ClusterError):
    """The node went away while it worked on this request."""

    code = ErrorCode.NODE_LOST


class EngineFailed(ClusterError):
    """The engine answered with an error or died."""

    code = ErrorCode.ENGINE_FAILED


class EngineDied(EngineFailed):
    """The engine's process ended while it worked on this request; the message holds its last words."""

    code = ErrorCode.ENGINE_DIED


class RequestCrashesEngine(ClusterError):
    """This very request ended an engine on two nodes, and is given to no third one for now."""

    code = ErrorCode.REQUEST_CRASHES_ENGINE


class EngineUnavailable(ClusterError):
    """The engine is not installed or cannot be reached."""

    code = ErrorCode.ENGINE_UNAVAILABLE


class InsufficientMemory(ClusterError):
    """The model does not fit; the message holds the arithmetic."""

    code = ErrorCode.INSUFFICIENT_MEMORY


class InsufficientStorage(ClusterError):
    """The disk is full; the message says which one."""

    code = ErrorCode.INSUFFICIENT_STORAGE


class TransferFailed(ClusterError):
    """A model file did not arrive; the message says from where, and what came of it."""

    code = ErrorCode.TRANSFER_FAILED


class LoadFailed(ClusterError):
    """The model could not be loaded; the message holds the engine's last words."""

    code = ErrorCode.LOAD_FAILED


class CrashLoop(ClusterError):
    """The model's engine ended again and again on this node; the message holds its last words."""

    code = ErrorCode.CRASH_LOOP


class ModelDamaged(ClusterError):
    """The model's file is not what it was or cannot be right; it is never given to an engine."""

    code = ErrorCode.MODEL_DAMAGED


class DeadlineExceeded(ClusterError):
    """The caller's time is up."""

    code = ErrorCode.DEADLINE_EXCEEDED


class SlowConsumer(ClusterError):
    """The caller reads slower than the node writes, for longer than the limit."""

    code = ErrorCode.SLOW_CONSUMER


class Cancelled(ClusterError):
    """The caller left or took the request back."""

    code = ErrorCode.CANCELLED


class NoAnswer(ClusterError):
    """Several nodes were asked and none answered; the message names each reason."""

    code = ErrorCode.NO_ANSWER


class UnreadableDocument(ClusterError):
    """A document is damaged, locked, empty, or takes more to read than a document may."""

    code = ErrorCode.UNREADABLE_DOCUMENT


class ExpandedTooLarge(ClusterError):
    """A document is small on the wire and huge once it is unpacked."""

    code = ErrorCode.EXPANDED_TOO_LARGE


class UnsupportedMediaType(ClusterError):
    """A file of a kind that is not read here, or not the kind that its sender calls it."""

    code = ErrorCode.UNSUPPORTED_MEDIA_TYPE


class EmbeddingModelChanged(ClusterError):
    """A collection was indexed with another embedding model; their vectors cannot be compared."""

    code = ErrorCode.EMBEDDING_MODEL_CHANGED


class SessionBusy(ClusterError):
    """An answer is being written in this chat session."""

    code = ErrorCode.SESSION_BUSY


class StoreUnavailable(ClusterError):
    """The database cannot be used: it is locked, damaged or away; the message says which one and the fix."""

    code = ErrorCode.STORE_UNAVAILABLE


class VersionMismatch(ClusterError):
    """Agent and coordinator share no protocol version; the message says which one to upgrade."""

    code = ErrorCode.VERSION_MISMATCH


class DuplicateNode(ClusterError):
    """Another live agent holds this node id; the message names both addresses."""

    code = ErrorCode.DUPLICATE_NODE


class Unsupported(ClusterError):
    """The peer asked for something this version does not know."""

    code = ErrorCode.UNSUPPORTED


class InternalError(ClusterError):
    """A bug; the log has the traceback under the request id."""

    code = ErrorCode.INTERNAL


def _kinds_of(error: type[ClusterError]) -> Iterator[type[ClusterError]]:
    for kind in error.__subclasses__():
        yield kind
        yield from _kinds_of(kind)


ERROR_OF_CODE: dict[ErrorCode, type[ClusterError]] = {error.code: error for error in _kinds_of(ClusterError)}


def error_of(code: str, message: str, *, param: str | None = None, retry_after_s: float | None = None) -> ClusterError:
    """The typed error for a code that came over the wire; a code of a newer version becomes `InternalError`."""
    try:
        kind = ERROR_OF_CODE[ErrorCode(code)]
    except (ValueError, KeyError):
        return InternalError(f"{message} (code {code!r} of a newer version)", param=param, retry_after_s=retry_after_s)
    return kind(message, param=param, retry_after_s=retry_after_s)
