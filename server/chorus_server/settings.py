"""What can be set on the coordinator."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from chorus_proto.addresses import check_networks
from chorus_proto.exposure import ALLOWED_HOSTS, INSECURE, REQUIRE_KEYS, TLS
from chorus_proto.settings import SettingsError, rising, setting
from chorus_proto.values import RoutingStrategy
from chorus_server.placement import PlacementStrategy


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorSettings:
    """Defaults are for a home lab of a few PCs; units are in the names."""

    host: str = setting("127.0.0.1", "address to listen on; 0.0.0.0 for every PC on the LAN")
    grpc_port: int = setting(50051, "port for agents and callers; 0 picks a free one", minimum=0, maximum=65535)
    state_dir: Path = setting(Path("~/.chorus"), "folder of everything that survives a restart")
    insecure: bool = setting(False, INSECURE)
    require_keys: bool | None = setting(None, REQUIRE_KEYS)
    tls: bool | None = setting(None, TLS)
    allowed_hosts: tuple[str, ...] = setting((), ALLOWED_HOSTS)
    heartbeat_s: float = setting(1.0, "seconds between an agent's heartbeats", minimum=0.1, maximum=60)
    suspect_after_s: float = setting(3.0, "no heartbeat for this long: no new work", minimum=0.2, maximum=600)
    dead_after_s: float = setting(10.0, "no heartbeat for this long: its work has failed", minimum=0.5, maximum=3600)
    forget_after_s: float = setting(86_400.0, "a node dead for this long is no longer listed", minimum=60)
    hello_within_s: float = setting(5.0, "an agent must introduce itself within this", minimum=0.1, maximum=60)
    forget_asleep_after_s: float = setting(
        2_592_000.0, "a node that may be woken is listed for this long after it was last here", minimum=60
    )
    wake_nodes: bool = setting(True, "wake a sleeping PC when a request needs a model that only it has")
    wake_address: str = setting("", "IPv4 address for wake-up packets; empty: the broadcast address of each network")
    wake_port: int = setting(9, "UDP port of wake-up packets", minimum=1, maximum=65535)
    wake_every_s: float = setting(10.0, "pause between two wake-up packets to one PC", minimum=0.1)
    wake_within_s: float = setting(90.0, "a woken PC is expected within this", minimum=1)
    wake_rest_s: float = setting(600.0, "one that did not come is not woken by requests for so long", minimum=0)
    routing_strategy: RoutingStrategy = setting(
        RoutingStrategy.EXPECTED_FINISH, "which replica takes a request", flag="--strategy"
    )
    placement_strategy: PlacementStrategy = setting(PlacementStrategy.TIER, "which model a node should hold")
    large_score: float = setting(80.0, "nodes of this score and up may hold large models", minimum=0, maximum=100)
    medium_score: float = setting(60.0, "nodes of this score and up may hold medium models", minimum=0, maximum=100)
    councils_file: Path | None = setting(None, "TOML file that defines councils: models asked together under one name")
    context_tokens: int = setting(4096, "context of each slot, at most what the model was trained for", minimum=64)
    slots: int = setting(4, "generations at once per replica", minimum=1, maximum=1024)
    queue_limit: int = setting(10_000, "requests that may wait for a slot", minimum=1)
    queue_model_limit: int = setting(5_000, "of these, for one model", minimum=1)
    queue_user_limit: int = setting(1_000, "of these, of one user", minimum=1)
    queue_bytes_limit: int = setting(64 << 20, "text of all requests that may wait", minimum=1 << 20)
    queue_within_s: float = setting(60.0, "longest wait for a slot by default", minimum=0, maximum=3600)
    batch_within_s: float = setting(3600.0, "the same for requests of priority batch", minimum=0, maximum=604_800)
    load_within_s: float = setting(300.0, "so much longer may a request wait while its model is loaded", minimum=0)
    first_token_within_s: float = setting(
        2.0, "an interactive request that cannot begin to be answered within this goes behind those that can", minimum=0
    )
    background_share: float = setting(
        0.2, "share of what is given away that batch work gets while others wait", minimum=0, maximum=0.9
    )
    debt_half_life_s: float = setting(300.0, "tokens that a user was given count half after this", minimum=1)
    user_shares: tuple[str, ...] = setting((), "users who get more or less than others, as NAME=SHARE; 1 is usual")
    node_weights: tuple[str, ...] = setting(
        (), "nodes and backends to prefer or to spare, as NAME=WEIGHT: as if it were so many times as fast; 1 is usual"
    )
    retry_within_s: float = setting(12.0, "a request whose node was lost waits so long for any", minimum=0, maximum=600)
    model_keep_alive_s: float = setting(
        300.0, "a model loaded for a request is freed after this long without one", minimum=0.1, maximum=31_536_000
    )
    attempts: int = setting(3, "nodes that may try one request", minimum=1, maximum=10)
    window_bytes: int = setting(256 * 1024, "unread bytes of one answer before its node pauses", minimum=4096)
    slow_caller_s: float = setting(30.0, "a caller who reads nothing for this long is cut", minimum=1)
    copy_on_demand: bool = setting(
        True, "bring a model to a node with room for it when it only lies where it does not fit"
    )
    copy_bytes_per_s_limit: int = setting(0, "most bytes a second of all copies between nodes; 0: no limit", minimum=0)
    copy_stall_s: float = setting(15.0, "another node goes on when one sends nothing for this long", minimum=0.2)
    copy_wait_s: float = setting(120.0, "a transfer waits this long for a node that is away", minimum=0.2)
    unload_within_s: float = setting(30.0, "running generations may finish for this long before an unload", minimum=0)
    backend_hosts: tuple[str, ...] = setting(
        (), "HOST, HOST:PORT or NETWORK/BITS of yours that backends may be at, besides those on the internet"
    )
    backend_slots: int = setting(8, "generations at once on a backend that does not say", minimum=1, maximum=1024)
    health_interval_s: float = setting(
        30.0, "seconds between looks whether a backend is well", flag="--health-interval", minimum=0.1
    )
    events_kept_s: float = setting(60.0, "what happened is kept so long for watchers who come back", minimum=1)
    events_kept: int = setting(1_000, "events kept for them at most", minimum=10, maximum=100_000)
    drain_s: float = setting(30.0, "running requests may finish for this long at shutdown", minimum=0, maximum=600)
    agents_limit: int = setting(500, "agents that may be connected", minimum=1)

    def check(self) -> None:
        """Raises SettingsError for two settings that contradict each other."""
        shares_of(self.user_shares)
        weights_of(self.node_weights)
        check_networks("backend_hosts", self.backend_hosts)
        rising(self, "heartbeat_s", "suspect_after_s", "dead_after_s", "forget_after_s")
        rising(self, "forget_after_s", "forget_asleep_after_s", equal=True)
        if self.wake_address:
            _check_ipv4(self.wake_address)
        rising(self, "medium_score", "large_score", equal=True)


def shares_of(user_shares: tuple[str, ...]) -> dict[str, float]:
    """By user. Raises SettingsError."""
    return _numbers_of("user_shares", user_shares, "SHARE", example="ann=2")


def weights_of(node_weights: tuple[str, ...]) -> dict[str, float]:
    """By the node's name. Raises SettingsError."""
    return _numbers_of("node_weights", node_weights, "WEIGHT", example="attic-pc=2")


def _numbers_of(setting_name: str, told: tuple[str, ...], kind: str, *, example: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for one in told:
        name, _, number = one.rpartition("=")
        try:
            found[name] = float(number)
        except ValueError:
            found[name] = 0.0
        if not name or not 0.01 <= found[name] <= 100:
            raise SettingsError(f"{setting_name} = {one!r} is no NAME={kind} of 0.01-100, such as {example}")
    return found


def _check_ipv4(address: str) -> None:
    try:
        ipaddress.IPv4Address(address)
    except ValueError:
        raise SettingsError(f"wake_address = {address!r} is no IPv4 address, such as 192.168.1.255") from None
