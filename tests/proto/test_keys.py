from __future__ import annotations

from pathlib import Path

import pytest

from chorus_proto.keys import LOCAL_KEY_FILE, ApiKey, KeyId, LocalKey, Scope, claim_of, key_text, local_key
from tests.support.key_secret import secret_of


def key_with(*scopes: Scope) -> ApiKey:
    return ApiKey(key_id=KeyId("0"), name="n", owner="n", scopes=scopes, created_unix_s=0.0)


def test_a_key_proves_itself_without_its_secret() -> None:
    key_id, text = key_text()
    claim = claim_of(text.encode())
    assert claim is not None
    assert claim.key_id == key_id and len(claim.digest) == 32
    assert secret_of(text) not in repr(claim)
    assert key_text()[1] != text


@pytest.mark.parametrize(
    "text", [b"", b"chorus_", b"sk-123", b"\xff\xff", b"chorus_0123ABCD_" + b"a" * 43, b"chorus_01234567_" + b"a" * 42]
)
def test_what_is_no_key_claims_nothing(text: bytes) -> None:
    assert claim_of(text) is None
    whole = key_text()[1].encode()
    assert claim_of(text + whole) is None or text == b""
    assert claim_of(whole + b"\n") is None


def test_admin_may_everything_and_the_others_only_their_own() -> None:
    asks = frozenset({Scope.INFER, Scope.CHAT})
    assert key_with(Scope.ADMIN).may(asks)
    assert key_with(Scope.METRICS, Scope.CHAT).may(asks)
    assert not key_with(Scope.METRICS).may(asks)
    assert not key_with().may(frozenset(Scope))


def test_the_key_of_this_pc_is_shown_to_its_own_coordinator_only(tmp_path: Path) -> None:
    (tmp_path / LOCAL_KEY_FILE).write_bytes(LocalKey(address="127.0.0.1:50051", text="secret").encoded())
    assert local_key(tmp_path, "127.0.0.1:50051") == "secret"
    assert local_key(tmp_path, "localhost:50051") == "secret"
    for stranger in ("127.0.0.1:50052", "192.0.2.1:50051", "evil.example:50051", "", ":50051"):
        assert local_key(tmp_path, stranger) == ""
    assert local_key(tmp_path / "elsewhere", "127.0.0.1:50051") == ""


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff", b'{"address": 1, "text": 2}'])
def test_a_broken_key_file_is_no_key(tmp_path: Path, content: bytes) -> None:
    (tmp_path / LOCAL_KEY_FILE).write_bytes(content)
    assert local_key(tmp_path, "127.0.0.1:50051") == ""
