"""The packet's bytes, and that they arrive: sent and received on loopback."""

from __future__ import annotations

import ipaddress
import socket

import pytest

from chorus_server.magic_packet import EVERYBODY, broadcast_addresses, magic_packet, send_magic_packets

MAC = "1c:69:7a:00:00:0f"
BYTES = bytes((0x1C, 0x69, 0x7A, 0x00, 0x00, 0x0F))


def test_the_packet_is_the_address_sixteen_times_after_six_times_0xff() -> None:
    packet = magic_packet(MAC)
    assert len(packet) == 102
    assert packet[:6] == b"\xff" * 6
    assert [packet[6 + 6 * n : 12 + 6 * n] for n in range(16)] == [BYTES] * 16


def test_one_packet_for_each_card_arrives() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.settimeout(5)
        other = "1c:69:7a:00:00:10"
        assert send_magic_packets([MAC, other], ["127.0.0.1"], listener.getsockname()[1]) == 2
        assert [listener.recv(2048) for _ in range(2)] == [magic_packet(MAC), magic_packet(other)]


def test_a_network_that_takes_none_is_logged_and_the_others_get_theirs(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.settimeout(5)
        port = listener.getsockname()[1]
        assert send_magic_packets([MAC], ["no.such.address.invalid", "127.0.0.1"], port) == 1
        assert listener.recv(2048) == magic_packet(MAC)
    assert "no wake-up packet to no.such.address.invalid" in caplog.text


def test_every_network_of_this_pc_is_sent_to_and_the_one_of_the_default_route() -> None:
    found = broadcast_addresses()
    assert found[-1] == EVERYBODY
    assert len(set(found)) == len(found)
    assert all(ipaddress.IPv4Address(address) for address in found)
