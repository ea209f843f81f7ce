"""How other PCs come in: the commands for them, the tokens that they show, and the hub's certificate authority.

The certificate is no secret; only its fingerprint, which is part of each token, proves anything.
"""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
from quart import Blueprint, Response, request

from chorus_http.body import json_body
from chorus_http.joining import Joining, join_answer, token_made
from chorus_http.replies import json_reply
from chorus_proto.dialects.fields import read_fields
from chorus_proto.dialects.strict_json import load_object
from chorus_proto.errors import CoordinatorUnavailable, NotFound

_EXPIRES_IN_S = 3600.0


class TokenRequest(msgspec.Struct):
    """See `chorus join-token create`. Without its members the token is for one PC within the next hour."""

    uses: Annotated[int, msgspec.Meta(ge=1)] | None = None
    expires_in_s: Annotated[float, msgspec.Meta(gt=0)] | None = None


def join_routes(joining: Joining | None, ca_pem: bytes | None, *, answer_within_s: float) -> Blueprint:
    """`ca_pem`: None when this hub is not encrypted."""
    routes = Blueprint("join", __name__)

    async def join() -> Response:
        return json_reply(join_answer(_known(joining), scheme=request.scheme, host=request.host))

    async def token() -> Response:
        known = _known(joining)
        asked = read_fields(load_object(await json_body()), TokenRequest, refused={})
        if known.tokens is None:
            raise NotFound("PCs join this hub without a token.")
        expires_in_s = _EXPIRES_IN_S if asked.expires_in_s is None else asked.expires_in_s
        try:
            async with asyncio.timeout(answer_within_s):
                made, text = await known.tokens.create_token(expires_in_s=expires_in_s, uses=asked.uses or 1)
        except TimeoutError:
            raise CoordinatorUnavailable("The coordinator did not answer in time.") from None
        response = json_reply(token_made(known, made, text), status=201)
        response.headers["cache-control"] = "no-store"
        return response

    async def authority() -> Response:
        if ca_pem is None:
            raise NotFound("This hub is not encrypted and has no certificate authority.")
        response = Response(ca_pem, content_type="application/x-pem-file")
        response.headers["content-disposition"] = 'attachment; filename="chorus-ca.pem"'
        return response

    routes.add_url_rule("/join", "join", join, methods=["GET"])
    routes.add_url_rule("/join/tokens", "token", token, methods=["POST"])
    routes.add_url_rule("/join/ca", "authority", authority, methods=["GET"])
    return routes


def _known(joining: Joining | None) -> Joining:
    """Raises NotFound."""
    if joining is None:
        raise NotFound("This server was not told how PCs join its coordinator.")
    return joining
