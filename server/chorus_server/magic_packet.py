"""Wake-on-LAN: the magic packet (AMD white paper 20213), sent to the broadcast addresses of this PC's networks."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterable, Sequence

import psutil

log = logging.getLogger(__name__)

EVERYBODY = "255.255.255.255"


def magic_packet(mac_address: str) -> bytes:
    """102 bytes: six times 0xFF, then the address 16 times. Takes `1c:69:7a:00:00:01`."""
    return b"\xff" * 6 + bytes.fromhex(mac_address.replace(":", "")) * 16


def broadcast_addresses() -> list[str]:
    """Of every network of this PC, and the one that means the network of the default route."""
    every = (one for addresses in psutil.net_if_addrs().values() for one in addresses)
    found = [one.broadcast for one in every if one.family == socket.AF_INET and one.broadcast]
    return [*dict.fromkeys(found), EVERYBODY]


def send_magic_packets(mac_addresses: Sequence[str], to: Iterable[str], port: int) -> int:
    """One packet for each MAC address to each IPv4 address; how many went out. Never waits, and logs what fails."""
    sent = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sender.setblocking(False)
        for address in to:
            for mac_address in mac_addresses:
                try:
                    sender.sendto(magic_packet(mac_address), (address, port))
                    sent += 1
                except OSError as error:
                    log.warning("no wake-up packet to %s port %d: %s", address, port, error.strerror or error)
    return sent
