"""The hub's own authority and what it issues, tried on OpenSSL's strictest rules."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from chorus_proto.clock import SystemClock
from chorus_proto.exposure import encrypts, needs_keys, refuse_exposure
from chorus_proto.settings import SettingsError
from chorus_proto.tls.authority import DAY_S, KEPT_FILE, PUBLIC_FILE, SERVER_DAYS, Authority, Issued
from chorus_proto.tls.folder import FOLDER, private_folder
from chorus_proto.tls.names import HUB_NAME, own_names
from chorus_proto.tls.shown import ShownCertificate
from tests.support.clock import FakeClock

NOW_S = SystemClock().unix_s()


def opened(folder: Path, *, now_unix_s: float = NOW_S) -> Authority:
    return Authority.open(folder, now_unix_s=now_unix_s)


def shake_hands(issued: Issued, ca_pem: bytes, name: str, folder: Path) -> None:
    """A whole TLS handshake without a network. Raises SSLError when the client does not trust the server."""
    both = folder / "server.pem"
    both.write_bytes(issued.key_pem + issued.chain_pem)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(both)
    trusting = ssl.create_default_context(cadata=ca_pem.decode())
    trusting.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13 on
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(down, up, server_hostname=name)
    server = serving.wrap_bio(up, down, server_side=True)
    for _ in range(4):
        for side in (client, server):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    client.do_handshake()


def test_an_authority_is_made_once_and_is_the_same_at_each_start(tmp_path: Path) -> None:
    first, second = opened(tmp_path), opened(tmp_path)
    assert first.fingerprint == second.fingerprint and len(first.fingerprint) == 64
    assert (tmp_path / FOLDER / PUBLIC_FILE).read_bytes() == first.pem
    assert b"PRIVATE" not in first.pem
    assert opened(tmp_path / "other").fingerprint != first.fingerprint


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX modes")
def test_only_its_owner_can_read_what_is_secret(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir(mode=0o755)
    opened(tmp_path)
    assert (tmp_path / FOLDER).stat().st_mode & 0o777 == 0o700
    assert (tmp_path / FOLDER / KEPT_FILE).stat().st_mode & 0o777 == 0o600


def test_on_windows_the_folder_is_left_to_its_owner_the_system_and_its_administrators(tmp_path: Path) -> None:
    commands: list[Sequence[str]] = []
    private_folder(tmp_path / "tls", windows=True, run=commands.append)
    ((program, path, *rest),) = commands
    assert (program, path) == ("icacls", str(tmp_path / "tls"))
    assert "/inheritance:r" in rest
    assert {word.partition(":")[0] for word in rest if word.startswith("*")} == {
        "*S-1-3-4",
        "*S-1-5-18",
        "*S-1-5-32-544",
    }


def test_a_folder_that_cannot_be_kept_private_is_refused(tmp_path: Path) -> None:
    def fails(_command: Sequence[str]) -> None:
        raise subprocess.CalledProcessError(5, "icacls")

    with pytest.raises(SettingsError, match="cannot be kept from other users"):
        private_folder(tmp_path / "tls", windows=True, run=fails)


def test_a_damaged_mixed_or_ended_authority_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    opened(tmp_path)
    other = tmp_path / "other"
    opened(other)
    kept = tmp_path / FOLDER / KEPT_FILE
    good = kept.read_bytes()
    key, _, _ = good.partition(b"-----BEGIN CERT")
    foreign = (other / FOLDER / KEPT_FILE).read_bytes()
    for damaged in (b"", good[:-100], key, key + foreign[foreign.index(b"-----BEGIN CERT") :]):
        kept.write_bytes(damaged)
        with pytest.raises(SettingsError, match="damaged"):
            opened(tmp_path)
        assert kept.read_bytes() == damaged
    kept.write_bytes(good)
    with pytest.raises(SettingsError, match="has ended"):
        opened(tmp_path, now_unix_s=NOW_S + 3651 * DAY_S)


@pytest.mark.parametrize("name", ["127.0.0.1", "::1", "attic.local", HUB_NAME])
def test_who_trusts_the_authority_trusts_its_server_by_each_of_its_names(tmp_path: Path, name: str) -> None:
    authority = opened(tmp_path)
    issued = authority.issue({"127.0.0.1", "::1", "attic.local", HUB_NAME}, now_unix_s=NOW_S)
    shake_hands(issued, authority.pem, name, tmp_path)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(issued, authority.pem, "cellar.local", tmp_path)


def test_another_authority_an_old_certificate_and_one_of_tomorrow_are_not_trusted(tmp_path: Path) -> None:
    authority, other = opened(tmp_path), opened(tmp_path / "other")
    names = {"attic"}
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(other.issue(names, now_unix_s=NOW_S), authority.pem, "attic", tmp_path)
    for days in (-SERVER_DAYS - 1, 2):
        with pytest.raises(ssl.SSLCertVerificationError):
            shake_hands(authority.issue(names, now_unix_s=NOW_S + days * DAY_S), authority.pem, "attic", tmp_path)


def test_a_pc_whose_clock_is_half_a_day_late_trusts_it_too(tmp_path: Path) -> None:
    authority = opened(tmp_path, now_unix_s=NOW_S + DAY_S / 2)
    shake_hands(authority.issue({"attic"}, now_unix_s=NOW_S + DAY_S / 2), authority.pem, "attic", tmp_path)


def test_a_certificate_is_renewed_at_two_thirds_of_its_life_and_when_the_pc_gets_an_address(tmp_path: Path) -> None:
    clock = FakeClock(unix_s=NOW_S)
    names = {"attic", "192.168.1.7"}
    shown = ShownCertificate(opened(tmp_path), clock, lambda: frozenset(names))
    first = shown.current
    clock.advance(SERVER_DAYS * DAY_S * 2 / 3 - 60)
    assert not shown.look() and shown.current is first
    clock.advance(61)
    assert shown.look() and shown.current.ends_unix_s > first.ends_unix_s
    names.add("10.0.0.9")
    assert shown.look() and "10.0.0.9" in shown.current.names
    names.remove("192.168.1.7")
    assert not shown.look(), "an address that went away does no harm"


def test_a_certificate_never_outlives_its_authority(tmp_path: Path) -> None:
    authority = opened(tmp_path)
    late_s = NOW_S + 3645 * DAY_S
    issued = authority.issue({"attic"}, now_unix_s=late_s)
    assert late_s < issued.renew_unix_s < issued.ends_unix_s < NOW_S + 3651 * DAY_S


def test_a_pc_is_known_by_its_host_names_its_addresses_and_what_the_settings_add() -> None:
    host = socket.gethostname().lower()
    names = own_names("0.0.0.0", ["chorus.lan", "[fd00::7]:5001", "*.evil", "no such host", "hüb"])
    assert names >= {HUB_NAME, "localhost", "127.0.0.1", "::1", "chorus.lan", "fd00::7"}
    assert {host, f"{host.partition('.')[0]}.local"} <= names
    assert not names & {"0.0.0.0", "*.evil", "no such host", "hüb", ""}
    assert "192.0.2.77" in own_names("192.0.2.77")


@pytest.mark.parametrize(
    ("host", "insecure", "tls", "encrypted"),
    [
        ("127.0.0.1", False, None, False),
        ("0.0.0.0", False, None, True),
        ("0.0.0.0", True, None, False),
        ("127.0.0.1", False, True, True),
        ("0.0.0.0", False, False, False),
        ("0.0.0.0", True, True, True),
    ],
)
def test_the_lan_is_encrypted_and_loopback_is_not_unless_somebody_says_otherwise(
    host: str, insecure: bool, tls: bool | None, encrypted: bool
) -> None:
    assert encrypts(host, insecure=insecure, tls=tls) is encrypted


def test_the_lan_opens_only_with_both_and_the_refusal_names_what_to_leave_out() -> None:
    assert needs_keys("0.0.0.0", insecure=False, require_keys=None)
    refuse_exposure("it", "0.0.0.0", insecure=False, encrypted=True, keys=True)
    refuse_exposure("it", "0.0.0.0", insecure=True, encrypted=False, keys=False)
    refuse_exposure("it", "127.0.0.1", insecure=False, encrypted=False, keys=False)
    for encrypted, keys, flag in ((False, True, "--no-tls"), (True, False, "--no-require-keys")):
        with pytest.raises(SettingsError, match=f"leave out {flag}, add --insecure"):
            refuse_exposure("it", "0.0.0.0", insecure=False, encrypted=encrypted, keys=keys)
