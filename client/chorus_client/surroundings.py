"""How a model is wanted in the pool, and what every model there works with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from chorus_client.engines.base import Engine, LoadOptions
from chorus_client.idle_probe import ProbeLimits
from chorus_client.memory_gate import MemoryGate
from chorus_client.preflight import Verdict
from chorus_client.watchdog import WatchLimits
from chorus_proto.clock import Clock
from chorus_proto.ids import ModelName
from chorus_proto.values import EngineKind, ModelFile, ReplicaReport


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """How a model is wanted. `adopted`: a server of the owner's that is used as it runs, and not started again here.
    `pinned`: never evicted, and the coordinator leaves it. `keep_alive_s`: freed after so long without a use."""

    options: LoadOptions
    adopted: bool = False
    pinned: bool = False
    keep_alive_s: float | None = None


class Room(Protocol):
    """Finds the memory for a load; room.py does."""

    async def make(self, file: ModelFile, options: LoadOptions) -> Verdict | None:
        """Return once the memory is free and promised to the load; None when it needs none here.

        Raises InsufficientMemory, with the arithmetic.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What every pooled model works with. `file_of` finds a model on this PC, `room` waits until its memory is there,
    `tell` hears each change of a report, `changed` that memory may have come free or become so."""

    engines: Mapping[EngineKind, Engine]
    clock: Clock
    gate: MemoryGate
    file_of: Callable[[ModelName], ModelFile | None]
    room: Room
    watch: WatchLimits
    probe: ProbeLimits
    tell: Callable[[ReplicaReport], None]
    changed: Callable[[], None]
