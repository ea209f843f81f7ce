"""Answers as plain values, and as Quart's."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass

import msgspec
from quart import Response

_encode = msgspec.json.Encoder().encode

JSON = "application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer that no framework has touched: the hot routes send it themselves. A generator is a stream's body."""

    body: bytes | AsyncGenerator[bytes, None]
    content_type: str = JSON
    headers: Mapping[str, str]
    """In small letters, without the content's type and length."""
    status: int = 200


def quart_response(reply: Reply) -> Response:
    response = Response(reply.body, status=reply.status, content_type=reply.content_type)
    response.headers.update(reply.headers)
    if not isinstance(reply.body, bytes):
        response.timeout = None  # the request has its own deadline
    return response


def json_reply(body: object, *, status: int = 200) -> Response:
    return Response(_encode(body), status=status, content_type=JSON)


def encoded(body: object) -> bytes:
    return _encode(body)
