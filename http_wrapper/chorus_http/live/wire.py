"""What a client of Socket.IO may send, looked at before the library sees it.

Packets are those of Engine.IO 4 and Socket.IO 5 (socket.io/docs/v4/engine-io-protocol, socket-io-protocol). Here they
are text only: no event takes binary, and the library would collect attachments without a limit.
"""

from __future__ import annotations

import re

import msgspec

from chorus_proto.dialects.strict_json import JsonValue, load_object
from chorus_proto.errors import ClusterError, InvalidRequest, NotFound

PACKETS_IN_BODY = 16
"""The library reads no more of one POST."""
SEPARATOR = "\x1e"
BINARY = "4b"
"""Stands for anything binary: a message of a kind that does not exist."""

_ENGINE = re.compile(r"[1345]|2(?:probe)?\Z")
_EVENT = re.compile(r"2(?:/,)?(?P<ack>[0-9]{0,15})(?P<arguments>\[.*)", re.DOTALL)
_WITHOUT_EVENT = re.compile(r"[013]")
_NAME = re.compile(r"[a-z_]{1,32}")
_NAMED = re.compile(r'\["([a-z_]{1,32})"[,\]]')
_LIBRARY_EVENTS = frozenset({"connect", "connect_error", "disconnect"})


def engine_packet(packet: str) -> str:
    """The packet as the library may have it. Raises InvalidRequest for what no client of the protocol sends."""
    if packet.startswith("b"):
        return BINARY
    if not _ENGINE.match(packet):
        raise InvalidRequest("This is no packet of Engine.IO 4.")
    return packet


def engine_packets(body: bytes) -> bytes:
    """The body of one POST, each packet as the library may have it. Raises InvalidRequest."""
    try:
        packets = body.decode().split(SEPARATOR)
    except UnicodeDecodeError:
        raise InvalidRequest("The packets are not UTF-8.") from None
    if len(packets) > PACKETS_IN_BODY:
        raise InvalidRequest(f"More than {PACKETS_IN_BODY} packets in one body.")
    return SEPARATOR.join(map(engine_packet, packets)).encode()


def check_message(message: object) -> None:
    """Raises InvalidRequest and InvalidJson for what is no text packet of Socket.IO with strict JSON in it."""
    if not isinstance(message, str):
        raise InvalidRequest("Packets are text.")
    event = _EVENT.fullmatch(message)
    if event is not None:
        _check_event(load_object(b'{"":%b}' % event["arguments"].encode())[""])
    elif not _WITHOUT_EVENT.match(message):
        raise InvalidRequest("This is no event: send its name and one object, without binary.")
    elif "{" in message:
        load_object(message[message.index("{") :].encode())


def _check_event(arguments: JsonValue) -> None:
    """Raises NotFound for a name that cannot be an event's; the library would take some for its own."""
    name = arguments[0] if isinstance(arguments, list) and arguments else None
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in _LIBRARY_EVENTS:
        raise NotFound("There is no such event; docs/live.md lists those there are.")


def event_named(message: object) -> str:
    """The name of the event in a packet, as far as it can be told; else empty."""
    if not isinstance(message, str):
        return ""
    name = _NAMED.search(message[:80])
    return "" if name is None else name[1]


def event_text(event: str, payload: bytes) -> str:
    """A packet with one argument, which is JSON already."""
    return f'2["{event}",{payload.decode()}]'


def error_shown(error: ClusterError) -> dict[str, object]:
    shown: dict[str, object] = {"code": error.code, "message": error.message}
    if error.param:
        shown["param"] = error.param
    if error.retry_after_s is not None:
        shown["retry_after_s"] = error.retry_after_s
    return shown


def refused_text(event: str, error: ClusterError) -> str:
    return event_text("refused", msgspec.json.encode({"event": event, **error_shown(error)}))
