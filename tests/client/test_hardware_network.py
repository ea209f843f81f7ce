"""Which of a PC's hardware addresses can wake it."""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from typing import NamedTuple

import psutil

from chorus_client.hardware.network import chosen, mac_addresses


class Address(NamedTuple):
    family: int
    address: str


def link(address: str) -> Sequence[Address]:
    return [Address(socket.AF_INET, "192.168.1.7"), Address(psutil.AF_LINK, address)]


def test_real_cards_come_and_made_up_ones_do_not() -> None:
    interfaces = {
        "lo": link("00:00:00:00:00:00"),
        "eth0": link("1C-69-7A-00-00-01"),
        "wlan0": link("a4:c3:f0:00:00:02"),
        "docker0": link("02:42:ac:11:00:01"),
        "vEthernet": link("00:15:5D:00:00:01"),
        "tun0": [Address(socket.AF_INET, "10.8.0.2")],
        "firewire": link("00:11:22:33:44:55:66:77"),
        "multicast": link("01:00:5e:00:00:01"),
    }
    assert chosen(interfaces) == ("1c:69:7a:00:00:01", "a4:c3:f0:00:00:02")


def test_a_virtual_machine_has_its_made_up_address() -> None:
    assert chosen({"eth0": link("02:42:ac:11:00:02")}) == ("02:42:ac:11:00:02",)


def test_one_card_under_two_names_is_told_once_and_the_number_is_bounded() -> None:
    assert chosen({"eth0": link("1c:69:7a:00:00:01"), "br0": link("1c:69:7a:00:00:01")}) == ("1c:69:7a:00:00:01",)
    assert len(chosen({f"eth{n}": link(f"1c:69:7a:00:00:{n:02x}") for n in range(20)})) == 8


def test_this_pcs_own_addresses_can_be_read_by_the_coordinator() -> None:
    assert all(re.fullmatch(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", address) for address in mac_addresses())
