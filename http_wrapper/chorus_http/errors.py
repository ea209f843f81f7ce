"""The one place where a refusal or failure becomes HTTP, in the shape that the path's clients parse."""

from __future__ import annotations

import logging
import math

from quart import Quart, Response
from werkzeug.exceptions import HTTPException

from chorus_http.apis import Api, error_object
from chorus_http.exchange import Exchange, current_exchange
from chorus_http.replies import Reply, quart_response
from chorus_proto.errors import (
    BodyTooLarge,
    ClusterError,
    ErrorCode,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
)
from chorus_proto.ids import RequestId

log = logging.getLogger(__name__)

_RETRY_AFTER_S = 2.0
"""For a 503 whose raiser knows no better time."""

# A second try by the client can help and repeats no work that it already paid for. QUEUE_TIMEOUT is absent: that caller
# has said how long it wants to wait.
_WORTH_RETRYING = frozenset(
    {
        ErrorCode.NO_REPLICA,
        ErrorCode.NO_NODES,
        ErrorCode.QUEUE_FULL,
        ErrorCode.DRAINING,
        ErrorCode.COORDINATOR_UNAVAILABLE,
        ErrorCode.ENGINE_UNAVAILABLE,
        ErrorCode.NODE_LOST,
    }
)


def error_body(error: ClusterError, api: Api = Api.OPENAI, request_id: RequestId | None = None) -> bytes:
    return error_object(error, api, request_id, partial=None)


def error_headers(error: ClusterError) -> dict[str, str]:
    headers = {"x-should-retry": "true" if error.code in _WORTH_RETRYING else "false"}
    after_s = error.retry_after_s
    if after_s is None and error.surface.http == 503:
        after_s = _RETRY_AFTER_S
    if after_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(after_s)))
    return headers


def error_reply(error: ClusterError, exchange: Exchange) -> Reply:
    body = error_body(error, exchange.api, exchange.request_id)
    return Reply(body=body, status=error.surface.http, headers=error_headers(error))


def refusal(error: ClusterError, exchange: Exchange) -> Reply:
    """The reply to a request that is refused, of which the log tells in one line."""
    log.info("request %s refused: %s: %s", exchange.request_id, error.code, error.message)
    return error_reply(error, exchange)


def unexpected(error: Exception, exchange: Exchange) -> InternalError:
    """What the caller hears of a bug: the request id, under which the log has the traceback."""
    log.error("bug while serving request %s", exchange.request_id, exc_info=error)
    return InternalError(f"Internal error. The log has the details under request {exchange.request_id}.")


def install_error_handlers(app: Quart) -> None:
    async def refused(error: ClusterError) -> Response:
        return quart_response(refusal(error, current_exchange()))

    async def http_error(error: HTTPException) -> Response:
        response = quart_response(error_reply(_of_http(error, error.code or 500), current_exchange()))
        for name, value in error.get_headers():
            if name.lower() == "allow":
                response.headers[name] = value
        return response

    async def bug(error: Exception) -> Response:
        exchange = current_exchange()
        return quart_response(error_reply(unexpected(error, exchange), exchange))

    app.register_error_handler(ClusterError, refused)
    app.register_error_handler(HTTPException, http_error)
    app.register_error_handler(Exception, bug)


def body_late() -> InvalidRequest:
    return InvalidRequest("The body did not arrive in time.")


def body_too_large() -> BodyTooLarge:
    return BodyTooLarge("The body is over the limit.")


def _of_http(error: HTTPException, code: int) -> ClusterError:
    match code:
        case 404:
            return NotFound("No such path here. GET / lists what there is.")
        case 405:
            return MethodNotAllowed("This path does not take that method; the Allow header lists those it takes.")
        case 408:
            return body_late()
        case 413:
            return body_too_large()
        case _ if code < 500:
            return InvalidRequest("The request could not be understood.")
        case _:
            return unexpected(error, current_exchange())
