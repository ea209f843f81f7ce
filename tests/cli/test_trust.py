"""By which authority a command knows its coordinator."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from chorus_cli.settings import CliSettings
from chorus_cli.trust import fingerprint_of, known_authority, learn_authority
from chorus_client.joining import HUB_FILE, HubFile
from chorus_proto.clock import SystemClock
from chorus_proto.errors import CoordinatorUnavailable
from chorus_proto.keys import LOCAL_KEY_FILE, LocalKey
from chorus_proto.membership import new_join_token
from chorus_proto.settings import SettingsError
from chorus_proto.tls.authority import Authority
from chorus_proto.tls.folder import FOLDER

AT = "192.0.2.7:50051"
MADE = Authority.made(now_unix_s=SystemClock().unix_s())


def settings(folder: Path, pin: str = "") -> CliSettings:
    return CliSettings(state_dir=folder, coordinator_ca=pin, answer_within_s=0.2)


def test_a_fingerprint_may_have_colons_or_stand_in_a_token_and_anything_else_is_refused() -> None:
    pin = "ab" * 32
    for text in (pin, pin.upper(), ":".join(["AB"] * 32), new_join_token(pin).text):
        assert fingerprint_of(text) == pin
    for wrong in ("", "ab", pin[:-1] + "g", pin + "00"):
        with pytest.raises(SettingsError, match="64 hexadecimal digits"):
            fingerprint_of(wrong)


def test_nothing_is_known_of_a_stranger(tmp_path: Path) -> None:
    assert known_authority(AT, settings(tmp_path)) is None


def test_the_hub_of_this_pc_is_known_by_what_it_left_here(tmp_path: Path) -> None:
    own = "127.0.0.1:50051"
    for pem in (MADE.pem, b""):
        left = LocalKey(address=own, text="key", ca_pem=pem.decode())
        (tmp_path / LOCAL_KEY_FILE).write_bytes(left.encoded())
        assert known_authority(own, settings(tmp_path)) == (pem or None)
        assert known_authority(AT, settings(tmp_path)) is None


def test_a_hub_that_this_pc_has_joined_is_known_at_its_address_only(tmp_path: Path) -> None:
    agent = tmp_path / "agents" / "attic"
    agent.mkdir(parents=True)
    joined = HubFile(address=AT, ca_pem=MADE.pem.decode(), secret="s", token_id="t", joined=True)
    (agent / HUB_FILE).write_bytes(msgspec.json.encode(joined))
    assert known_authority(AT, settings(tmp_path)) == MADE.pem
    assert known_authority("192.0.2.8:50051", settings(tmp_path)) is None


def test_a_named_authority_is_kept_and_a_forged_copy_of_it_is_not_believed(tmp_path: Path) -> None:
    known = tmp_path / FOLDER / "known"
    known.mkdir(parents=True)
    file = known / f"{MADE.fingerprint}.pem"
    pinned = settings(tmp_path, MADE.fingerprint)
    file.write_bytes(MADE.pem)
    learn_authority(AT, pinned)  # asks nobody
    assert known_authority(AT, pinned) == MADE.pem
    for forged in (Authority.made(now_unix_s=SystemClock().unix_s()).pem, b"", b"\xff", MADE.pem[:-40]):
        file.write_bytes(forged)
        assert known_authority(AT, pinned) is None
    with pytest.raises(CoordinatorUnavailable):
        learn_authority("127.0.0.1:9", pinned)
