"""What the store keeps, as frozen values. Times are seconds since 1970."""

from __future__ import annotations

from dataclasses import dataclass

from chorus_proto.ids import ModelName, NodeId
from chorus_proto.values import EngineKind, Hardware, ModelFile


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedNode:
    """A node that was connected at some time."""

    node_id: NodeId
    name: str
    client_id: str
    hardware: Hardware
    score: float
    first_seen_unix_s: float
    last_seen_unix_s: float
    address: str = ""
    mac_addresses: tuple[str, ...] = ()
    models: tuple[ModelFile, ...] = ()
    stopped: bool = False
    """Its agent was ended on purpose when it was last here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What was learnt of one model in one engine on one node, over `samples` finished requests."""

    node_id: NodeId
    model: ModelName
    engine: EngineKind
    decode_tokens_per_s: float | None = None
    prefill_tokens_per_s: float | None = None
    resident_bytes: int | None = None
    predicted_bytes: int | None = None
    load_s: float | None = None
    samples: int = 0
    updated_unix_s: float = 0.0
    context_tokens: int = 0
    slots: int = 1
    expected_bytes: int | None = None
    arithmetic: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """How opening went. `epoch` grows with each opening; `note` says what was lost, "" when nothing was."""

    epoch: int
    sqlite_version: str
    note: str = ""
