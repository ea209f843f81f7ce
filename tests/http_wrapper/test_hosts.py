from __future__ import annotations

import socket

import pytest

from chorus_http.hosts import Hosts
from chorus_http.settings import HttpSettings
from chorus_proto.errors import BadHost, Forbidden
from chorus_proto.settings import SettingsError


def hosts(bound: str = "127.0.0.1", allowed: tuple[str, ...] = (), cors: tuple[str, ...] = ()) -> Hosts:
    return Hosts(bound, allowed_hosts=allowed, cors_origins=cors)


def takes(known: Hosts, host: str) -> bool:
    try:
        for _ in range(2):  # the second time from memory
            known.check_host([host.encode()], "1.1")
    except BadHost:
        return False
    return True


@pytest.mark.parametrize("bound", ["127.0.0.1", "0.0.0.0", "::", "192.0.2.7"])
def test_loopback_and_our_own_names_are_always_ours(bound: str) -> None:
    own = socket.gethostname()
    names = ("localhost", "LOCALHOST:5001", "localhost.", "127.0.0.1", "127.0.0.1:80", "[::1]:5001", "127.9.9.9")
    for host in (*names, own, f"{own}.local:1", "host.docker.internal:5001"):
        assert takes(hosts(bound), host), host


def test_an_address_is_ours_when_we_listen_there() -> None:
    assert takes(hosts("192.0.2.7"), "192.0.2.7:5001")
    assert not takes(hosts("192.0.2.7"), "192.0.2.8")
    for host in ("192.0.2.8:5001", "[2001:db8::1]:5001", "10.0.0.1"):
        assert takes(hosts("0.0.0.0"), host)
        assert not takes(hosts("127.0.0.1"), host)


@pytest.mark.parametrize("bound", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example.", "127.0.0.1.evil.example", "localhost.evil.example", "127.1", "2130706433"),
        *("", ".", "[evil.example]", "a@localhost", "localhost@evil.example", "localhost/evil", "\xff"),
    ],
)
def test_other_names_are_nobodys(bound: str, host: str) -> None:
    assert not takes(hosts(bound), host)


def test_the_settings_add_names() -> None:
    known = hosts(allowed=("hub.example.org", "[2001:db8::5]:80"))
    assert takes(known, "HUB.example.org:443") and takes(known, "[2001:db8::5]")
    assert not takes(known, "sub.hub.example.org")


def test_one_host_header_is_needed_except_from_probes_that_speak_http_1_0() -> None:
    known = hosts()
    known.check_host([], "1.0")
    for told, version in (([], "1.1"), ([b"localhost", b"localhost"], "1.1"), ([b"evil.example"], "1.0")):
        with pytest.raises(BadHost):
            known.check_host(told, version)


def test_memory_of_good_names_is_bounded() -> None:
    known = hosts("0.0.0.0")
    assert all(takes(known, f"10.0.{i // 250}.{i % 250}") for i in range(1_000))
    assert not takes(known, "evil.example")


def test_a_page_is_ours_when_its_origin_is_the_host_it_was_sent_to() -> None:
    known = hosts(cors=("https://chat.example",))
    known.check_origin([b"http://localhost:5001"], [b"localhost:5001"])
    known.check_origin([b"https://chat.example"], [b"localhost:5001"])
    for origin in (b"http://localhost:5002", b"null", b"", b"https://chat.example.evil", b"file://", b"localhost:5001"):
        with pytest.raises(Forbidden):
            known.check_origin([origin], [b"localhost:5001"])
    with pytest.raises(Forbidden):
        known.check_origin([b"https://chat.example"] * 2, [b"localhost:5001"])


@pytest.mark.parametrize(
    "origin", ["*", "https://*", "https://*.example", "chat.example", "https://chat.example/", "null"]
)
def test_an_origin_in_the_settings_must_be_exact(origin: str) -> None:
    with pytest.raises(SettingsError, match="cors_origins"):
        HttpSettings(cors_origins=(origin,)).check()
    HttpSettings(cors_origins=("https://chat.example:8443", "chrome-extension://abcdef", "app://obsidian.md")).check()
