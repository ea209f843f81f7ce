from __future__ import annotations

import pytest

from chorus_proto.addresses import (
    check_networks,
    in_network,
    is_ip_address,
    is_public,
    network_of,
    require_public,
)
from chorus_proto.errors import AddressNotAllowed
from chorus_proto.settings import SettingsError


@pytest.mark.parametrize(
    "address", ["93.184.215.14", "8.8.8.8", "2606:2800:21f::1", "[2a00:1450::1]", "::ffff:8.8.8.8"]
)
def test_an_address_of_the_internet_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.255.0.9", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254"),
        *("100.64.0.1", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1"),
        *("::", "::1", "[::1]", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12::1", "ff02::1", "2001:db8::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1", "2002:7f00:1::", "2001:0:1::1"),
        *("", "localhost", "127.1", "2130706433", "example.org"),
    ],
)
def test_an_address_of_ours_or_none_is_not(address: str) -> None:
    assert not is_public(address)


def test_a_refusal_names_the_host_and_its_address() -> None:
    with pytest.raises(
        AddressNotAllowed, match=r"cdn\.example is at 10\.0\.0\.1, which is not on the internet"
    ) as refused:
        require_public("10.0.0.1", of="cdn.example")
    assert refused.value.surface.http == 400
    require_public("8.8.8.8", of="cdn.example")


def test_a_name_is_no_address() -> None:
    assert is_ip_address("[::1]")
    assert is_ip_address("127.0.0.1")
    assert not is_ip_address("127.1")
    assert not is_ip_address("localhost")


@pytest.mark.parametrize(
    ("address", "network", "inside"),
    [
        ("192.168.1.7", "192.168.1.0/24", True),
        ("192.168.2.7", "192.168.1.0/24", False),
        ("::ffff:192.168.1.7", "192.168.1.0/24", True),
        ("[fd00::1]", "fd00::/8", True),
        ("192.168.1.7", "fd00::/8", False),
        ("127.0.0.1", "0.0.0.0/0", False),
        ("169.254.169.254", "0.0.0.0/0", False),
        ("::ffff:127.0.0.1", "0.0.0.0/0", False),
        ("127.0.0.2", "127.0.0.0/8", True),
        ("attic-pc", "192.168.1.0/24", False),
    ],
)
def test_a_network_holds_its_addresses_and_never_loopback_by_accident(address: str, network: str, inside: bool) -> None:
    found = network_of(network)
    assert found is not None
    assert in_network(address, found) is inside


def test_what_looks_like_a_network_and_is_none_is_refused_by_name() -> None:
    check_networks("backend_hosts", ["attic", "attic:8000", "10.0.0.0/8"])
    with pytest.raises(SettingsError, match=r"backend_hosts: '10\.0\.0\.0/33'"):
        check_networks("backend_hosts", ["10.0.0.0/33"])
