from __future__ import annotations

import asyncio
import socket

import pytest
from aiohttp.abc import ResolveResult

from chorus_client.transfer.checked_resolver import CheckedResolver, own_hosts, require_allowed_address
from chorus_proto.errors import AddressNotAllowed, TransferFailed


class Answers:
    """A name server that says what it likes."""

    def __init__(self, *addresses: str) -> None:
        self._addresses = addresses

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host=one, port=port, family=socket.AF_INET, proto=0, flags=0)
            for one in self._addresses
        ]

    async def close(self) -> None:
        pass


def resolved(*addresses: str, host: str = "cdn.example", hosts: frozenset[str] = frozenset()) -> list[str]:
    resolver = CheckedResolver(hosts, Answers(*addresses))

    async def scenario() -> list[str]:
        found = await resolver.resolve(host, 443)
        await resolver.close()
        return [one["host"] for one in found]

    return asyncio.run(scenario())


def test_a_name_with_public_addresses_is_resolved() -> None:
    assert resolved("93.184.215.14", "2606:2800:21f::1") == ["93.184.215.14", "2606:2800:21f::1"]


@pytest.mark.parametrize("address", ["127.0.0.1", "10.1.2.3", "::1", "169.254.169.254", "64:ff9b::7f00:1"])
def test_one_address_of_ours_among_public_ones_refuses_the_name(address: str) -> None:
    with pytest.raises(AddressNotAllowed, match=r"cdn\.example is at"):
        resolved("93.184.215.14", address)


def test_a_host_that_the_owner_lists_may_lie_anywhere() -> None:
    for listed in ("mirror.lan", "mirror.lan:443"):
        assert resolved("192.168.1.9", host="Mirror.LAN.", hosts=frozenset({listed})) == ["192.168.1.9"]
    with pytest.raises(AddressNotAllowed):
        resolved("192.168.1.9", host="mirror.lan", hosts=frozenset({"mirror.lan:5000"}))


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/x",
        "http://127.1/x",
        "http://2130706433/x",
        "http://0x7f.1/x",
        "http://0x7f000001/x",
        "http://017700000001/x",
        "http://\uff11\uff12\uff17.0.0.1/x",
        "http://[::1]/x",
        "http://[::ffff:127.0.0.1]/x",
        "http://[64:ff9b::7f00:1]/x",
        "http://[fe80::1%25eth0]/x",
        "http://169.254.169.254/latest",
        "http://0.0.0.0/x",
    ],
)
def test_an_address_of_ours_is_refused_however_it_is_written(url: str) -> None:
    with pytest.raises(AddressNotAllowed):
        require_allowed_address(url, frozenset())


def test_public_addresses_listed_ones_and_names_pass() -> None:
    require_allowed_address("https://93.184.215.14/x", frozenset())
    require_allowed_address("https://registry.ollama.ai/x", frozenset())
    require_allowed_address("http://127.0.0.1:5000/x", frozenset({"127.0.0.1:5000"}))
    require_allowed_address("http://[::1]:5000/x", frozenset({"[::1]:5000"}))
    with pytest.raises(AddressNotAllowed):
        require_allowed_address("http://127.0.0.1:5001/x", frozenset({"127.0.0.1:5000"}))
    with pytest.raises(TransferFailed):
        require_allowed_address("http://[::1/x", frozenset())


def test_registry_and_proxies_are_the_owners_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ftp_proxy", "socks_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("https_proxy", "proxy.lan:3128")
    assert own_hosts("https://registry.ollama.ai", "http://[::1]:5000/x", "http://bad:port") == {
        "registry.ollama.ai:443",
        "[::1]:5000",
        "proxy.lan:3128",
    }


def test_a_listed_network_lets_its_addresses_in_by_name_and_as_they_are() -> None:
    lan = frozenset({"192.168.1.0/24"})
    assert resolved("192.168.1.7", host="attic.lan", hosts=lan) == ["192.168.1.7"]
    require_allowed_address("http://192.168.1.7:8000/v1", lan)
    for stranger in ("192.168.2.7", "127.0.0.1", "169.254.169.254"):
        with pytest.raises(AddressNotAllowed):
            resolved("192.168.1.7", stranger, host="attic.lan", hosts=lan)
        with pytest.raises(AddressNotAllowed):
            require_allowed_address(f"http://{stranger}:8000/v1", lan)
