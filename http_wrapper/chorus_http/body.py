"""The one way a JSON body comes in."""

from __future__ import annotations

from typing import cast

from quart import request

from chorus_proto.errors import InvalidRequest


async def json_body() -> bytes:
    """The request's bytes, for a parser of `chorus_proto.dialects`.

    A missing Content-Type passes. Any other than JSON is refused, `curl -d`'s default form type included: browsers may
    send those across origins without asking, so taking them would open this port to every web page its owner visits.
    Raises InvalidRequest; werkzeug's 408 and 413 for a body that is late or too large.
    """
    kind = request.mimetype
    if kind and kind != "application/json":
        raise InvalidRequest(
            f"The Content-Type header says '{kind[:64]}'; send it as 'Content-Type: application/json' "
            "(with curl: -H 'Content-Type: application/json').",
            param="Content-Type",
        )
    charset = request.mimetype_params.get("charset", "utf-8").lower()
    if charset not in ("utf-8", "utf8", "us-ascii"):
        raise InvalidRequest("The body's charset must be UTF-8.", param="Content-Type")
    return cast("bytes", await request.get_data(cache=False, as_text=False))
