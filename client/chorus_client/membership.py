"""How a node dials its hub and proves itself there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from grpc import aio

from chorus_proto.keys import local_hub
from chorus_proto.tls.dial import dial


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    ca_pem: bytes | None = None
    """The one authority that the hub's certificate must be of; None: the hub speaks in clear."""
    bearer: str = field(default="", repr=False)
    """What is shown with each call; empty: nothing is asked for."""

    def dial(self, address: str) -> aio.Channel:
        return dial(address, self.ca_pem)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Of each call. Never without encryption."""
        return (("authorization", f"Bearer {self.bearer}"),) if self.bearer and self.ca_pem is not None else ()


IN_CLEAR = Membership()

Door = Callable[[], Awaitable[Membership]]
"""Asked before each connection. Raises Refused when there is no way in, ClusterError when there is none just now."""


async def open_door() -> Membership:
    """Of a hub that lets every PC in."""
    return IN_CLEAR


def local_membership(state_dir: Path, address: str) -> Membership | None:
    """Of the hub at `address`, if it runs on this PC with this state folder: its own processes need no token."""
    hub = local_hub(state_dir, address)
    if hub is None:
        return None
    return Membership(ca_pem=hub.ca_pem.encode("ascii"), bearer=hub.text) if hub.ca_pem else IN_CLEAR


def local_door(state_dir: Path, address: str) -> Door:
    """Of the hub's own processes; read anew each time, as each start of the hub makes another key."""

    async def look() -> Membership:
        return local_membership(state_dir, address) or IN_CLEAR

    return look
