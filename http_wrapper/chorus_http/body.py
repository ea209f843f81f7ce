"""The one way a JSON body comes in."""

from __future__ import annotations

from typing import cast

from quart import request

from chorus_proto.errors import InvalidRequest

_CURLS_KIND = "application/x-www-form-urlencoded"
"""What `curl -d` says of any body; the examples of Ollama's docs rely on that nobody minds."""


async def json_body(*, from_curl: bool = False) -> bytes:
    """The request's bytes, for a parser of `chorus_proto.dialects`.

    A missing Content-Type passes. Any other than JSON is refused, `curl -d`'s default form type included: browsers may
    send those across origins without asking, so taking them would open this port to every web page its owner visits.
    `from_curl` takes the form type from whoever sends no Origin, as no browser does with a POST of another site's page.
    Raises InvalidRequest; werkzeug's 408 and 413 for a body that is late or too large.
    """
    kind = request.mimetype
    curls = from_curl and kind == _CURLS_KIND and "Origin" not in request.headers
    if kind and kind != "application/json" and not curls:
        raise InvalidRequest(
            f"The Content-Type header says '{kind[:64]}'; send it as 'Content-Type: application/json' "
            "(with curl: -H 'Content-Type: application/json').",
            param="Content-Type",
        )
    charset = request.mimetype_params.get("charset", "utf-8").lower()
    if charset not in ("utf-8", "utf8", "us-ascii"):
        raise InvalidRequest("The body's charset must be UTF-8.", param="Content-Type")
    return cast("bytes", await request.get_data(cache=False, as_text=False))
