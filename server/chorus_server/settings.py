"""What can be set on the coordinator."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from chorus_proto.settings import rising, setting
from chorus_proto.values import RoutingStrategy
from chorus_server.placement import PlacementStrategy


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorSettings:
    """Defaults are for a home lab of a few PCs; units are in the names."""

    host: str = setting("127.0.0.1", "address to listen on; 0.0.0.0 for every PC on the LAN")
    grpc_port: int = setting(50051, "port for agents and callers; 0 picks a free one", minimum=0, maximum=65535)
    state_dir: Path = setting(Path("~/.chorus"), "folder of everything that survives a restart")
    insecure: bool = setting(False, "listen beyond this PC although nothing is encrypted and no key is asked for")
    heartbeat_s: float = setting(1.0, "seconds between an agent's heartbeats", minimum=0.1, maximum=60)
    suspect_after_s: float = setting(3.0, "no heartbeat for this long: no new work", minimum=0.2, maximum=600)
    dead_after_s: float = setting(10.0, "no heartbeat for this long: its work has failed", minimum=0.5, maximum=3600)
    forget_after_s: float = setting(86_400.0, "a node dead for this long is no longer listed", minimum=60)
    hello_within_s: float = setting(5.0, "an agent must introduce itself within this", minimum=0.1, maximum=60)
    routing_strategy: RoutingStrategy = setting(RoutingStrategy.EXPECTED_FINISH, "which replica takes a request")
    placement_strategy: PlacementStrategy = setting(PlacementStrategy.TIER, "which model a node should hold")
    large_score: float = setting(80.0, "nodes of this score and up may hold large models", minimum=0, maximum=100)
    medium_score: float = setting(60.0, "nodes of this score and up may hold medium models", minimum=0, maximum=100)
    context_tokens: int = setting(4096, "context of each slot, at most what the model was trained for", minimum=64)
    slots: int = setting(4, "generations at once per replica", minimum=1, maximum=1024)
    queue_limit: int = setting(1000, "requests that may wait for a slot", minimum=1)
    queue_within_s: float = setting(120.0, "longest wait for a slot by default", minimum=0, maximum=3600)
    retry_within_s: float = setting(12.0, "a request whose node was lost waits so long for any", minimum=0, maximum=600)
    model_keep_alive_s: float = setting(
        300.0, "a model loaded for a request is freed after this long without one", minimum=0.1, maximum=31_536_000
    )
    attempts: int = setting(3, "nodes that may try one request", minimum=1, maximum=10)
    window_bytes: int = setting(256 * 1024, "unread bytes of one answer before its node pauses", minimum=4096)
    slow_caller_s: float = setting(30.0, "a caller who reads nothing for this long is cut", minimum=1)
    unload_within_s: float = setting(30.0, "running generations may finish for this long before an unload", minimum=0)
    drain_s: float = setting(30.0, "running requests may finish for this long at shutdown", minimum=0, maximum=600)
    agents_limit: int = setting(500, "agents that may be connected", minimum=1)

    def check(self) -> None:
        """Raises SettingsError for two settings that contradict each other."""
        rising(self, "heartbeat_s", "suspect_after_s", "dead_after_s", "forget_after_s")
        rising(self, "medium_score", "large_score", equal=True)
