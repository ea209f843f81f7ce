"""What an OpenAI-compatible server's refusal means: the typed error for an answer that is not 200."""

from __future__ import annotations

import re

import msgspec

from chorus_proto.errors import (
    ClusterError,
    ContextLengthExceeded,
    EngineFailed,
    EngineUnavailable,
    ErrorCode,
    InvalidRequest,
    UnsupportedParameter,
)

_FIELDS_IT_HAS_NOT = (ErrorCode.UNSUPPORTED_PARAMETER, ErrorCode.UNKNOWN_PARAMETER)
"""Codes of Chorus's own model server, and of OpenAI."""


class _Refusal(msgspec.Struct):
    message: str = ""
    type: str | None = None
    param: str | None = None
    code: str | int | None = None
    n_prompt_tokens: int | None = None
    n_ctx: int | None = None


class _RefusalBody(msgspec.Struct):
    error: _Refusal | str


_FIELD = re.compile(r"[Ff]ield '(\w+)'|'(\w+)' (?:to be|must|is)|^(\w+) (?:type )?must\b|\"(\w+)\" (?:must|is)")


def refusal(status: int, body: bytes) -> ClusterError:
    """The typed error for an answer that is not 200."""
    try:
        error = msgspec.json.decode(body, type=_RefusalBody).error
    except msgspec.DecodeError:
        error = body[:300].decode("utf-8", "replace").strip()
    if isinstance(error, str):
        error = _Refusal(message=error)
    words = error.message[:500] or f"HTTP {status}"
    if 300 <= status < 400:
        return EngineFailed(f"the engine answered with a redirect ({status}), which is not followed")
    if status in (400, 413, 422):
        if error.type == "exceed_context_size_error" or error.code == "context_length_exceeded":
            if error.n_prompt_tokens is not None and error.n_ctx is not None:
                words = (
                    f"the prompt has {error.n_prompt_tokens} tokens, but the model's context is {error.n_ctx} tokens"
                )
            return ContextLengthExceeded(words, param="messages")
        found = _FIELD.search(words)
        field = error.param or next((name for name in (found.groups() if found else ()) if name), None)
        if error.code in _FIELDS_IT_HAS_NOT:
            return UnsupportedParameter(f"this model's engine cannot honour it: {words}", param=field)
        return InvalidRequest(f"the engine refused the request: {words}", param=field)
    if status in (401, 403):
        return EngineUnavailable(f"the engine refused our API key ({status})")
    if status in (404, 405, 501):
        return EngineFailed(f"the engine does not serve this ({status}): {words}")
    if status in (429, 503):
        return EngineUnavailable(f"the engine is busy or still loading ({status}): {words}")
    return EngineFailed(f"the engine failed ({status}): {words}")
