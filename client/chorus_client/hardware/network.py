"""The hardware addresses by which this PC can be woken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import psutil

_MOST = 8
_LOCAL_BIT = 0x02
"""Set in addresses that a program made up: bridges, containers, tunnels."""
_GROUP_BIT = 0x01
_VIRTUAL = ("00:15:5d", "00:50:56", "00:05:69", "00:0c:29", "0a:00:27")
"""Hyper-V's and VMware's adapters, and VirtualBox's host network."""


class Address(Protocol):
    """As psutil tells it."""

    @property
    def family(self) -> int: ...

    @property
    def address(self) -> str: ...


def mac_addresses() -> tuple[str, ...]:
    """Of the network cards that are up: `1c:69:7a:00:00:01`. Blocks for some milliseconds on Windows."""
    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    found = psutil.net_if_addrs()
    return chosen({name: addresses for name, addresses in found.items() if name in up})


def chosen(interfaces: Mapping[str, Sequence[Address]]) -> tuple[str, ...]:
    """Real cards' addresses; made-up ones only where there are no others, as in virtual machines."""
    found: dict[str, None] = {}
    for addresses in interfaces.values():
        for one in addresses:
            if one.family == psutil.AF_LINK:
                mac = one.address.lower().replace("-", ":")
                if len(mac) == 17 and mac.strip("0:") and not int(mac[:2], 16) & _GROUP_BIT:
                    found[mac] = None
    real = [mac for mac in found if not int(mac[:2], 16) & _LOCAL_BIT and not mac.startswith(_VIRTUAL)]
    return tuple((real or list(found))[:_MOST])
