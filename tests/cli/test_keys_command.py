"""`chorus keys`, and a hub that asks for keys, with real processes."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from pathlib import Path

import click
import pytest

from chorus_cli.commands.keys import HEADINGS, checked_scopes, key_row
from chorus_proto.keys import ApiKey, KeyId, Scope
from tests.support.key_secret import secret_of
from tests.whole.support import cluster, eventually, run_chorus


def status_of(url: str, *, key: str = "") -> int:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"} if key else {})
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:
            return reply.status
    except urllib.error.HTTPError as error:
        return error.code


def test_a_key_is_made_used_and_revoked_on_a_hub_that_asks_for_keys(tmp_path: Path) -> None:
    with cluster(tmp_path) as chorus:
        hub = chorus.start("up", "--no-agent", "--require-keys", "--grpc-port=0", "--http-port=0")
        told = hub.ready()
        at, url = f"--coordinator={told['grpc_address']}", str(told["http_url"])
        state, nowhere = f"--state-dir={chorus.state_dir}", f"--state-dir={tmp_path / 'nowhere'}"
        assert status_of(f"{url}/health") == 200
        assert status_of(f"{url}/v1/models") == 401

        stranger = run_chorus("keys", "list", at, nowhere)
        assert (stranger.code, stranger.out) == (1, "")
        assert "CHORUS_API_KEY" in stranger.err

        made = run_chorus("keys", "create", "ann", "--scopes=infer", "--expires-in-days=30", at, state)
        key = made.out.strip()
        assert made.code == 0 and key.startswith("chorus_") and key not in made.err
        assert status_of(f"{url}/v1/models", key=key) == 200
        assert status_of(f"{url}/status", key=key) == 403
        listed = run_chorus("keys", "list", "--json", at, state)
        (shown,) = json.loads(listed.out)
        assert shown["name"] == "ann" and shown["scopes"] == ["infer"] and secret_of(key) not in listed.out
        assert run_chorus("nodes", at, nowhere, CHORUS_API_KEY=key).code == 0
        assert run_chorus("keys", "list", at, nowhere, CHORUS_API_KEY=key).code == 1

        again = run_chorus("keys", "create", "ann", at, state)
        assert again.code == 1 and "already" in again.err
        assert run_chorus("keys", "revoke", "ann", at, state).code == 0
        assert status_of(f"{url}/v1/models", key=key) == 401
        assert run_chorus("keys", "revoke", "nobody", at, state).code == 1
        assert "revoked" in run_chorus("keys", "list", "--all", at, state).out
        logs = "".join(file.read_text(encoding="utf-8") for file in chorus.state_dir.rglob("*.log*"))
        assert "ann" in logs and secret_of(key) not in logs


def test_an_http_address_in_its_own_process_checks_keys_with_its_coordinator(tmp_path: Path) -> None:
    with cluster(tmp_path) as chorus:
        hub = chorus.coordinator("--require-keys").ready()
        at, state = f"--coordinator={hub['grpc_address']}", f"--state-dir={chorus.state_dir}"
        front = chorus.start("http", "--http-port=0", "--require-keys", at)
        url = str(front.ready()["http_url"])
        key = run_chorus("keys", "create", "ann", "--scopes=infer,metrics", at, state).out.strip()
        assert [status_of(f"{url}/status"), status_of(f"{url}/status", key=key)] == [401, 200]
        assert run_chorus("keys", "revoke", "ann", at, state).code == 0
        assert eventually(lambda: status_of(f"{url}/status", key=key) == 401, within_s=2, what="the key is dead")


def test_a_backend_is_registered_shown_and_forgotten(tmp_path: Path) -> None:
    with cluster(tmp_path) as chorus:
        hub = chorus.coordinator("--health-interval=0.2", "--backend-hosts=127.0.0.1:9").ready()
        at, state = f"--coordinator={hub['grpc_address']}", f"--state-dir={chorus.state_dir}"
        refused = run_chorus("backends", "register", "ssh", "http://127.0.0.1:22", at, state)
        assert refused.code == 1 and "backend_hosts" in refused.err
        secret = tmp_path / "key"
        secret.write_text("sk-9\n", encoding="utf-8")
        made = run_chorus(
            "backends", "register", "attic", "http://127.0.0.1:9", f"--api-key-file={secret}", "--models=a,b", at, state
        )
        assert made.code == 0, made.err
        (shown,) = json.loads(run_chorus("backends", "--json", at, state).out)
        assert shown["name"] == "attic" and "sk-9" not in json.dumps(shown)
        eventually(
            lambda: "unhealthy" in run_chorus("backends", at, state).out, within_s=10, what="nobody answers there"
        )
        assert run_chorus("backends", "unregister", "attic", at, state).code == 0
        assert "there is no backend" in run_chorus("backends", at, state).out


@pytest.mark.parametrize("command", ["up", "coordinator", "http"])
@pytest.mark.parametrize("lacks", [("--no-tls", "TLS"), ("--no-require-keys", "keys")])
def test_a_lan_address_without_keys_or_tls_is_exit_code_2_and_its_port_stays_closed(
    tmp_path: Path, command: str, lacks: tuple[str, str]
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    flag = "--http-port" if command == "http" else "--grpc-port"
    ended = run_chorus(command, "--host=0.0.0.0", f"{flag}={port}", lacks[0], f"--state-dir={tmp_path}")
    assert ended.code == 2
    assert f"without {lacks[1]};" in ended.err and "--insecure" in ended.err and ended.err.count("\n") == 1
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_scopes_are_words_with_commas() -> None:
    assert checked_scopes(" Metrics,infer,infer,") == (Scope.INFER, Scope.METRICS)
    for wrong in ("", "root", "infer;admin", "infer admin"):
        with pytest.raises(click.BadParameter):
            checked_scopes(wrong)


def test_a_row_shows_limits_and_how_a_key_stands() -> None:
    key = ApiKey(
        key_id=KeyId("01234567"),
        name="ann",
        owner="lab",
        scopes=(Scope.INFER,),
        created_unix_s=0.0,
        expires_unix_s=100.0,
        parallel=2,
        trusted=True,
    )
    row = dict(zip(HEADINGS, key_row(key, 50.0), strict=True))
    assert row["LIMITS"] == "2 at once" and row["LAST USED"] == "never" and row["SCOPES"] == "infer (trusted)"
    assert row["STATE"].startswith("live until")
    assert dict(zip(HEADINGS, key_row(key, 100.0), strict=True))["STATE"].startswith("expired")
