"""Every refusal and failure that crosses a process boundary, and the one table that says how each edge shows it.

A module that knows a fact raises the typed error; edges look the code up in `SURFACE` and nowhere else.
"""

from __future__ import annotations

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
    ENGINE_UNAVAILABLE = "engine_unavailable"
    INSUFFICIENT_MEMORY = "insufficient_memory"
    INSUFFICIENT_STORAGE = "insufficient_storage"
    LOAD_FAILED = "load_failed"
    CRASH_LOOP = "crash_loop"
    MODEL_DAMAGED = "model_damaged"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    SLOW_CONSUMER = "slow_consumer"
    CANCELLED = "cancelled"
    NO_ANSWER = "no_answer"
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
    ErrorCode.ENGINE_UNAVAILABLE: Surface(grpc=_GRPC.UNAVAILABLE, http=503, retryable=True),
    ErrorCode.INSUFFICIENT_MEMORY: Surface(grpc=_GRPC.RESOURCE_EXHAUSTED, http=503),
    ErrorCode.INSUFFICIENT_STORAGE: Surface(grpc=_GRPC.RESOURCE_EXHAUSTED, http=507),
    ErrorCode.LOAD_FAILED: Surface(grpc=_GRPC.UNAVAILABLE, http=503, retryable=True),
    ErrorCode.CRASH_LOOP: Surface(grpc=_GRPC.UNAVAILABLE, http=503, retryable=True),
    ErrorCode.MODEL_DAMAGED: Surface(grpc=_GRPC.DATA_LOSS, http=503, retryable=True),
    ErrorCode.DEADLINE_EXCEEDED: Surface(grpc=_GRPC.DEADLINE_EXCEEDED, http=504),
    ErrorCode.SLOW_CONSUMER: Surface(grpc=_GRPC.RESOURCE_EXHAUSTED, http=503),
    ErrorCode.CANCELLED: Surface(grpc=_GRPC.CANCELLED, http=499),
    ErrorCode.NO_ANSWER: Surface(grpc=_GRPC.UNAVAILABLE, http=502),
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


class EngineUnavailable(ClusterError):
    """The engine is not installed or cannot be reached."""

    code = ErrorCode.ENGINE_UNAVAILABLE


class InsufficientMemory(ClusterError):
    """The model does not fit; the message holds the arithmetic."""

    code = ErrorCode.INSUFFICIENT_MEMORY


class InsufficientStorage(ClusterError):
    """The disk is full; the message says which one."""

    code = ErrorCode.INSUFFICIENT_STORAGE


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


ERROR_OF_CODE: dict[ErrorCode, type[ClusterError]] = {error.code: error for error in ClusterError.__subclasses__()}


def error_of(code: str, message: str, *, param: str | None = None, retry_after_s: float | None = None) -> ClusterError:
    """The typed error for a code that came over the wire; a code of a newer version becomes `InternalError`."""
    try:
        kind = ERROR_OF_CODE[ErrorCode(code)]
    except (ValueError, KeyError):
        return InternalError(f"{message} (code {code!r} of a newer version)", param=param, retry_after_s=retry_after_s)
    return kind(message, param=param, retry_after_s=retry_after_s)
