"""What a JSON body must look like to come in, and how it comes in for Quart's routes."""

from __future__ import annotations

from functools import lru_cache
from typing import cast

from quart import request
from werkzeug.http import parse_options_header

from chorus_http.exchange import Exchange, current_exchange
from chorus_proto.errors import InvalidRequest

_CURLS_KIND = "application/x-www-form-urlencoded"
"""What `curl -d` says of any body; the examples of Ollama's docs rely on that nobody minds."""


async def json_body(*, from_curl: bool = False) -> bytes:
    """The request's bytes, for a parser of `chorus_proto.dialects`.

    Raises what `check_is_json` does; werkzeug's 408 and 413 for a body that is late or too large.
    """
    check_is_json(current_exchange(), from_curl=from_curl)
    return cast("bytes", await request.get_data(cache=False, as_text=False))


def check_is_json(exchange: Exchange, *, from_curl: bool) -> None:
    """A missing Content-Type passes.

    Any other than JSON is refused, `curl -d`'s default form type included: browsers may send those across origins
    without asking, so taking them would open this port to every web page its owner visits.
    `from_curl` takes the form type from whoever sends no Origin, as no browser does with a POST of another site's page.
    Raises InvalidRequest.
    """
    kind, charset = _kind_and_charset(exchange.header(b"content-type") or "")
    curls = from_curl and kind == _CURLS_KIND and exchange.header(b"origin") is None
    if kind and kind != "application/json" and not curls:
        raise InvalidRequest(
            f"The Content-Type header says '{kind[:64]}'; send it as 'Content-Type: application/json' "
            "(with curl: -H 'Content-Type: application/json').",
            param="Content-Type",
        )
    if charset not in ("utf-8", "utf8", "us-ascii"):
        raise InvalidRequest("The body's charset must be UTF-8.", param="Content-Type")


@lru_cache(maxsize=64)
def _kind_and_charset(content_type: str) -> tuple[str, str]:
    kind, parameters = parse_options_header(content_type)
    return kind.lower(), parameters.get("charset", "utf-8").lower()
