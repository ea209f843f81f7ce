"""The APIs that callers know, and how each of them writes a failure down."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from chorus_proto.errors import ClusterError, ErrorCode
from chorus_proto.ids import RequestId

_encode = msgspec.json.Encoder().encode

_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
"""Of the API reference, `Errors`; any other status is an `api_error`."""


class Api(StrEnum):
    OPENAI = "openai"
    OLLAMA = "ollama"
    ANTHROPIC = "anthropic"


def api_of(path: str) -> Api:
    """Whose callers use this path; all that is nobody's own is answered as OpenAI does."""
    if path.startswith("/api/"):
        return Api.OLLAMA
    if path == "/v1/messages" or path.startswith("/v1/messages/"):
        return Api.ANTHROPIC
    return Api.OPENAI


def error_type(error: ClusterError) -> str:
    """OpenAI's `error.type`: whose fault it is."""
    return "server_error" if error.surface.http >= 500 else "invalid_request_error"


def error_object(error: ClusterError, api: Api, request_id: RequestId | None, *, partial: bool | None) -> bytes:
    """One JSON object. `partial`: in the middle of a stream, whether output was shown; None for a whole answer."""
    match api:
        case Api.OLLAMA:
            # Clients of Ollama read `error` as a text; the rest is for those who look.
            body: dict[str, object] = {"error": error.message, "code": error.code}
            return _encode(body | ({"param": error.param} if error.param else {}))
        case Api.ANTHROPIC:
            kind = _ANTHROPIC_TYPES.get(error.surface.http, "api_error")
            told = {"type": kind, "message": _with_param(error)}
            return _encode({"type": "error", "error": told, "request_id": request_id})
        case Api.OPENAI:
            inner: dict[str, object] = {
                "message": error.message,
                "type": error_type(error),
                "param": error.param,
                "code": error.code,
            }
            if partial is not None:
                inner |= {"partial": partial, "request_id": request_id}
            return _encode({"error": inner})


def _with_param(error: ClusterError) -> str:
    """Anthropic's errors have no field for the parameter: its API begins the message with the path."""
    plain = error.code in (ErrorCode.INVALID_REQUEST, ErrorCode.UNKNOWN_PARAMETER, ErrorCode.UNSUPPORTED_PARAMETER)
    return f"{error.param}: {error.message}" if error.param and plain else error.message
