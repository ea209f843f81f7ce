"""Names of things, each its own type, so that a model name never lands where a node id belongs."""

from __future__ import annotations

import secrets
import uuid
from typing import NewType

NodeId = NewType("NodeId", str)
"""UUID of a PC, kept in its agent's state folder."""

InstanceId = NewType("InstanceId", str)
"""New at each start of an agent; tells a restarted PC from a cloned one."""

ModelName = NewType("ModelName", str)
"""What callers write in `model`, e.g. `llama3.2:3b`."""

COUNCIL_PREFIX = "council/"
"""Model names that begin so are councils: several models asked at once."""

RequestId = NewType("RequestId", str)
"""24 hexadecimal digits, one per accepted request; the same in every log line, header and answer."""

ExecutionId = NewType("ExecutionId", int)
"""One attempt of one request on one node; grows with each attempt and is never reused within an epoch."""


def is_council(model: str) -> bool:
    return model.lower().startswith(COUNCIL_PREFIX)


def new_node_id() -> NodeId:
    return NodeId(str(uuid.uuid4()))


def new_instance_id() -> InstanceId:
    return InstanceId(str(uuid.uuid4()))


def new_request_id() -> RequestId:
    return RequestId(secrets.token_hex(12))
