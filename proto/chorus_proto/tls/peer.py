"""Who answers at an address, found out by a TLS handshake of our own, before gRPC is told to trust anybody.

gRPC calls every fault of TLS "unavailable", and cannot show the certificate of a server that it does not trust yet.
Everything here blocks for up to `within_s`.
"""

from __future__ import annotations

import hashlib
import socket
import ssl
from typing import Protocol, cast

from chorus_proto.errors import CoordinatorUnavailable, Forbidden
from chorus_proto.tls.names import HUB_NAME


class _Certificate(Protocol):
    def public_bytes(self) -> str: ...


class _Chained(Protocol):
    """What of a TLS connection is public from Python 3.13 on, and has been on its inner object since 3.10."""

    def get_unverified_chain(self) -> list[_Certificate] | list[bytes] | None: ...


def pinned_authority(address: str, fingerprint: str, *, within_s: float) -> bytes:
    """The authority with this SHA-256 (64 hexadecimal digits) that the hub at `address` shows, as PEM.

    Trusts nobody and sends nothing. Raises CoordinatorUnavailable when nobody speaks TLS there, and Forbidden when
    it is another authority's hub.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the fingerprint decides, and after it gRPC with what is returned here
    context.set_alpn_protocols(["h2"])
    try:
        with _connected(address, within_s) as plain, context.wrap_socket(plain, server_hostname=HUB_NAME) as secure:
            chain = _chain(secure)
    except ssl.SSLError:
        raise CoordinatorUnavailable(f"what answers at {address} does not speak TLS") from None
    except OSError as error:
        raise CoordinatorUnavailable(f"{address} cannot be reached: {error.strerror or error}") from None
    for certificate in chain:
        if hashlib.sha256(certificate).hexdigest() == fingerprint:
            return ssl.DER_cert_to_PEM_cert(certificate).encode()
    raise Forbidden(
        f"what answers at {address} is another hub, or somebody between you and it: its authority is not the one that "
        "was named. Nothing was sent to it. Is the address right, and the token of this hub?"
    )


def why_not(address: str, ca_pem: bytes | None, *, within_s: float) -> str:
    """Why no connection comes about, for people; empty when the reason is none of TLS's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2"])
    if ca_pem is not None:
        context.load_verify_locations(cadata=ca_pem.decode("ascii"))
    try:
        with _connected(address, within_s) as plain, context.wrap_socket(plain, server_hostname=HUB_NAME):
            return ""
    except ssl.SSLCertVerificationError as error:
        if ca_pem is None:
            return "it speaks TLS: a PC joins with a token (on the hub: chorus join-token create)"
        return f"its certificate is not of the hub that this PC trusts: {error.verify_message}"
    except ssl.SSLError:
        return "" if ca_pem is None else "it does not speak TLS, as the hub that this PC trusts does"
    except OSError:
        return ""


def _connected(address: str, within_s: float) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout=within_s)


def _chain(secure: ssl.SSLSocket) -> list[bytes]:
    """DER."""
    inner: object = getattr(secure, "_sslobj", None)
    chained = cast("_Chained", secure if hasattr(secure, "get_unverified_chain") else inner)
    return [
        one if isinstance(one, bytes) else ssl.PEM_cert_to_DER_cert(one.public_bytes())
        for one in chained.get_unverified_chain() or ()
    ]
