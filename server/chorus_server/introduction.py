"""What an agent says of itself, checked: an introduction or a list of models that cannot be true is refused."""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence

from chorus_proto import PROTOCOL_MAX, PROTOCOL_MIN, __version__
from chorus_proto.errors import InvalidRequest, VersionMismatch
from chorus_proto.values import Hello, ModelFile

NAME_LIMIT = 64
MODELS_LIMIT = 2_000
MODEL_NAME_LIMIT = 256
REPLICAS_LIMIT = 64
MAC_ADDRESSES_LIMIT = 8

_MAC_ADDRESS = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


def check_hello(hello: Hello) -> None:
    """Refuse an introduction that cannot be true, naming the field. Raises InvalidRequest or VersionMismatch."""
    if hello.protocol_max < PROTOCOL_MIN or hello.protocol_min > PROTOCOL_MAX:
        older = "agent" if hello.protocol_max < PROTOCOL_MIN else "coordinator"
        raise VersionMismatch(
            f"this coordinator (Chorus {__version__}) speaks link protocol {PROTOCOL_MIN} to {PROTOCOL_MAX}, the agent "
            f"(Chorus {hello.version}) {hello.protocol_min} to {hello.protocol_max}: upgrade the {older}"
        )
    try:
        uuid.UUID(hello.node_id)
        uuid.UUID(hello.instance_id)
    except ValueError:
        raise InvalidRequest("node_id and instance_id must be UUIDs", param="node_id") from None
    if not hello.name or len(hello.name) > NAME_LIMIT or not hello.name.isprintable():
        raise InvalidRequest(f"name must be 1 to {NAME_LIMIT} printable characters", param="name")
    check_inventory(hello.models)
    if len(hello.replicas) > REPLICAS_LIMIT:
        raise InvalidRequest(f"at most {REPLICAS_LIMIT} models can be loaded on one node", param="replicas")
    macs = hello.mac_addresses
    if len(macs) > MAC_ADDRESSES_LIMIT or not all(_MAC_ADDRESS.fullmatch(mac) for mac in macs):
        wanted = f"at most {MAC_ADDRESSES_LIMIT} addresses like 1c:69:7a:00:00:01"
        raise InvalidRequest(f"mac_addresses must be {wanted}", param="mac_addresses")


def check_inventory(models: Sequence[ModelFile]) -> None:
    """Refuse a list of models that cannot be true. Raises InvalidRequest."""
    if len(models) > MODELS_LIMIT:
        raise InvalidRequest(f"at most {MODELS_LIMIT} models can be announced", param="models")
    if any(not 0 < len(file.name) <= MODEL_NAME_LIMIT for file in models):
        raise InvalidRequest(f"a model's name has 1 to {MODEL_NAME_LIMIT} characters", param="models")
