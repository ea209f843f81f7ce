"""Who may ask, and how a refusal looks: API keys, Host names, and errors in the shape that OpenAI's clients read."""

from __future__ import annotations

import hmac
import ipaddress
import logging
import math
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

import msgspec
from aiohttp import web
from aiohttp.typedefs import Middleware

from chorus_proto.errors import (
    BodyTooLarge,
    ClusterError,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
)

log = logging.getLogger(__name__)

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

_PUBLIC = frozenset({"/health"})
_encode = msgspec.json.Encoder().encode


def error_body(error: ClusterError, **more: object) -> bytes:
    kind = "server_error" if error.surface.http >= 500 else "invalid_request_error"
    told = {"message": error.message, "type": kind, "param": error.param, "code": error.code}
    return _encode({"error": told | more})


def error_response(error: ClusterError) -> web.Response:
    headers: dict[str, str] = {}
    if error.surface.http == 503:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s or 1)))
    return web.Response(
        status=error.surface.http, body=error_body(error), content_type="application/json", headers=headers
    )


def errors_as_answers() -> Middleware:
    """The outermost one: nothing else may reach aiohttp's own error pages."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except ClusterError as error:
            log.info("%s refused: %s: %s", request.path, error.code, error.message)
            return error_response(error)
        except web.HTTPNotFound:
            return error_response(NotFound("No such path here."))
        except web.HTTPMethodNotAllowed as error:
            answer = error_response(MethodNotAllowed("This path does not take that method."))
            answer.headers["Allow"] = ", ".join(sorted(error.allowed_methods))
            return answer
        except web.HTTPRequestEntityTooLarge:
            return error_response(BodyTooLarge("The body is larger than this server takes."))
        except (web.HTTPException, ConnectionError, EOFError):
            raise
        except Exception as error:  # the edge: a bug is logged here, and its caller hears that it was one
            log.error("bug while serving %s", request.path, exc_info=error)
            return error_response(InternalError("Internal error; the server's log has the details."))

    return middleware


def keys_asked_for(keys: Sequence[bytes]) -> Middleware:
    """Bearer keys; without any, only this PC's own names are taken for `Host`, or a web page could ask (rebinding)."""
    names = {"localhost", socket.gethostname().lower(), f"{socket.gethostname().lower()}.local"}

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not keys:
            host = _without_port(request.headers.get("Host", ""))
            if host not in names and not _is_address(host):
                return error_response(InvalidRequest("Invalid 'Host' header."))
        elif request.path not in _PUBLIC:
            word, _, key = request.headers.get("Authorization", "").partition(" ")
            given = key.strip().encode("utf-8", "surrogateescape") if word.lower() == "bearer" else b""
            if not any(hmac.compare_digest(given, one) for one in keys):
                body = {"message": "Invalid API key.", "type": "authentication_error", "param": None}
                return web.json_response({"error": body | {"code": "invalid_api_key"}}, status=401)
        return await handler(request)

    return middleware


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0].lower() if ":" in host else host.lower()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def stream_failure(error: ClusterError, *, partial: bool) -> bytes:
    """The event that ends a stream whose status is already sent; no `[DONE]` follows."""
    return b"data: %b\n\n" % error_body(error, partial=partial)
