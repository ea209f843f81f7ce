"""A gRPC connection to a hub, encrypted once its authority is known."""

from __future__ import annotations

from collections.abc import Sequence

import grpc
from grpc import aio

from chorus_proto.channel import DIALER_OPTIONS, ChannelOption
from chorus_proto.tls.names import HUB_NAME

_TLS_OPTIONS: tuple[ChannelOption, ...] = (
    *(one for one in DIALER_OPTIONS if one[0] != "grpc.min_reconnect_backoff_ms"),
    # It is also how long one try may take, and the handshake of a busy small PC takes its time.
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.ssl_target_name_override", HUB_NAME),
)


def dial(address: str, ca_pem: bytes | None, *, interceptors: Sequence[aio.ClientInterceptor] = ()) -> aio.Channel:
    """`ca_pem`: the one authority to trust; None: in clear, for loopback and for hubs that were told to be insecure."""
    if ca_pem is None:
        return aio.insecure_channel(address, options=DIALER_OPTIONS, interceptors=interceptors)
    return aio.secure_channel(
        address,
        grpc.ssl_channel_credentials(root_certificates=ca_pem),
        options=_TLS_OPTIONS,
        interceptors=interceptors,
    )
