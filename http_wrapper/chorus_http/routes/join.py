"""GET /join/ca: the certificate of the hub's authority, which is no secret; only its fingerprint proves anything."""

from __future__ import annotations

from quart import Blueprint, Response

from chorus_proto.errors import NotFound


def join_routes(ca_pem: bytes | None) -> Blueprint:
    """`ca_pem`: None when this hub is not encrypted."""
    routes = Blueprint("join", __name__)

    async def authority() -> Response:
        if ca_pem is None:
            raise NotFound("This hub is not encrypted and has no certificate authority.")
        response = Response(ca_pem, content_type="application/x-pem-file")
        response.headers["content-disposition"] = 'attachment; filename="chorus-ca.pem"'
        return response

    routes.add_url_rule("/join/ca", "authority", authority, methods=["GET"])
    return routes
