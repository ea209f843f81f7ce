"""A JSON answer from plain values."""

from __future__ import annotations

import msgspec
from quart import Response

_encode = msgspec.json.Encoder().encode


def json_reply(body: object, *, status: int = 200) -> Response:
    return Response(_encode(body), status=status, content_type="application/json")


def encoded(body: object) -> bytes:
    return _encode(body)
