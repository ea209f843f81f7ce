"""Quart's request, with the limits of uploads where files come in."""

from __future__ import annotations

from quart import Request

from chorus_http.body_limits import body_limit_bytes, body_within_s
from chorus_http.settings import HttpSettings


def request_class(settings: HttpSettings) -> type[Request]:
    """For one app. A body over the limit is refused with 413, one that is late with 408."""

    class UploadRequest(Request):
        def __init__(self, method: str, scheme: str, path: str, *rest: object, **named: object) -> None:
            limit_bytes = body_limit_bytes(settings, path)
            named["max_content_length"] = limit_bytes
            named["body_timeout"] = body_within_s(settings, path)
            super().__init__(method, scheme, path, *rest, **named)  # pyright: ignore[reportArgumentType]  # passed on as it came
            self.max_content_length = limit_bytes  # of the form's parser, which looks here

    return UploadRequest
