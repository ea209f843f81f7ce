"""gRPC channel options for both ends of a link; each was measured, see the notes beside it.

Facts behind them (grpcio 1.85): keepalive alone notices a stopped peer after 66 s, `grpc.http2.ping_timeout_ms` cuts
that to 11 s; two servers bind one port silently unless `grpc.so_reuseport=0`; with ping strikes on, 20 % packet loss
cuts a healthy agent; a silent TCP client is held for over 30 s unless the handshake has a limit.
"""

from __future__ import annotations

MESSAGE_LIMIT_BYTES = 4 * 1024 * 1024

GENERATION_LIMIT_BYTES = MESSAGE_LIMIT_BYTES - 256 * 1024
"""Most of one request's text: an order must fit a message beside the frames it shares it with."""

ERROR_CODE_KEY = "chorus-error-code"
"""Trailing metadata of a call that was refused for a reason of ours: the ErrorCode. Without it, gRPC itself failed."""

ChannelOption = tuple[str, int | str]

_SHARED: tuple[ChannelOption, ...] = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", MESSAGE_LIMIT_BYTES),
    ("grpc.max_send_message_length", MESSAGE_LIMIT_BYTES),
)

DIALER_OPTIONS: tuple[ChannelOption, ...] = (
    *_SHARED,
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 10_000),
    # Each dialer owns its connection: a pooled one would outlive the link that broke on it.
    ("grpc.use_local_subchannel_pool", 1),
)
"""For agents, wrappers and consoles, who dial out."""

LISTENER_OPTIONS: tuple[ChannelOption, ...] = (
    *_SHARED,
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1_000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.so_reuseport", 0),
    ("grpc.server_handshake_timeout_ms", 5_000),
    ("grpc.max_concurrent_streams", 100),
    ("grpc.max_metadata_size", 16_384),
)
"""For the coordinator, who listens."""
