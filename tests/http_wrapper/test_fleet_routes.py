"""What the web page asks of the hub beside the other APIs: fits, transfers, waking, keys and servers."""

from __future__ import annotations

import asyncio
import json

import pytest

from chorus_http.app import create_app
from chorus_http.joining import Joining
from chorus_http.listen import serving
from chorus_http.settings import HttpSettings
from chorus_proto.clock import SystemClock
from chorus_proto.keys import Scope
from chorus_proto.transfers import Transfer, TransferKind, TransferState
from tests.support.fake_cluster import MODEL, NODE, FakeCluster
from tests.support.fake_servers import FakeServers
from tests.support.http_face import Reply, send_raw

RUNNING = Transfer(
    transfer_id="t1",
    kind=TransferKind.PULL,
    state=TransferState.RUNNING,
    model=MODEL,
    node_id=NODE,
    node_name="attic-pc",
    done_bytes=100,
    total_bytes=400,
    bytes_per_s=100.0,
)
JOINING = Joining(address="192.168.1.10:50051", lan_host="192.168.1.10", open=True)


def ask(*requests: tuple[str, str, object], cluster: FakeCluster | None = None, servers: bool = True) -> list[Reply]:
    """Each request is a method, a path and a body (None: none)."""

    async def run() -> list[Reply]:
        settings = HttpSettings(http_port=0, drain_within_s=1.0)
        app = create_app(
            cluster or FakeCluster(),
            settings,
            SystemClock(),
            servers=FakeServers("coder", "writer") if servers else None,
            joining=JOINING if servers else None,
        )
        async with serving(app, settings) as server:
            return [await send_raw(server.port, written(*request)) for request in requests]

    return asyncio.run(run())


def written(method: str, path: str, body: object) -> bytes:
    raw = b"" if body is None else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close", f"Content-Length: {len(raw)}"]
    if raw:
        lines.append("Content-Type: application/json")
    return "\r\n".join([*lines, "", ""]).encode() + raw


def test_fits_are_reckoned_at_the_context_and_slots_that_were_asked_for() -> None:
    usual, asked = ask(("GET", "/models/fit", None), ("GET", "/models/fit?context_tokens=8192&slots=4", None))
    assert (usual.json()["context_tokens"], usual.json()["slots"]) == (4096, 1)
    assert (asked.json()["context_tokens"], asked.json()["slots"]) == (8192, 4)
    assert MODEL in [one["model"] for one in asked.rows("models")]


@pytest.mark.parametrize("query", ["context_tokens=0", "context_tokens=-1", "slots=1.5", "slots=9999", "slots=%F0"])
def test_a_context_that_is_no_number_is_refused(query: str) -> None:
    (reply,) = ask(("GET", f"/models/fit?{query}", None))
    assert (reply.status, reply.error()["code"]) == (400, "invalid_request")


def test_a_pull_is_begun_seen_and_stopped() -> None:
    cluster = FakeCluster()
    cluster.pull_steps = [RUNNING]
    begun, listed = ask(("POST", "/transfers", {"source": "tiny:1b"}), ("GET", "/transfers", None), cluster=cluster)
    assert begun.status == 202
    assert cluster.pulled == ["tiny:1b"]
    (row,) = listed.rows("transfers")
    assert (row["state"], row["share"], row["left_s"], row["error"]) == ("running", 0.25, 3.0, None)
    (stopped,) = ask(("DELETE", f"/transfers/{row['transfer_id']}", None), cluster=cluster)
    assert stopped.status == 200
    assert cluster.cancelled_transfers == [row["transfer_id"]]


@pytest.mark.parametrize(
    ("body", "param"),
    [({}, "model"), ({"model": "a", "source": "b"}, "model"), ({"model": "a"}, "node"), ({"source": "a", "x": 1}, "x")],
)
def test_a_transfer_that_nobody_can_understand_is_refused(body: object, param: str) -> None:
    (reply,) = ask(("POST", "/transfers", body))
    assert (reply.status, reply.error()["param"]) == (400, param)


def test_a_sleeping_pc_is_woken_by_name() -> None:
    (reply,) = ask(("POST", "/nodes/attic-pc/wake", None))
    assert reply.status == 200
    assert isinstance(reply.json()["message"], str)


def test_a_key_is_made_listed_without_its_secret_and_revoked() -> None:
    cluster = FakeCluster()
    made, listed = ask(
        ("POST", "/keys", {"name": "ada", "scopes": ["infer"], "tokens_per_day": 5}),
        ("GET", "/keys", None),
        cluster=cluster,
    )
    assert made.status == 201
    assert made.headers["cache-control"] == "no-store"
    secret = str(made.json()["secret"])
    assert secret.startswith("chorus_")
    (row,) = listed.rows("keys")
    assert (row["name"], row["scopes"], row["live"]) == ("ada", ["infer"], True)
    assert secret.removeprefix(f"chorus_{row['key_id']}_").encode() not in listed.body
    (revoked,) = ask(("DELETE", f"/keys/{row['key_id']}", None), cluster=cluster)
    assert revoked.json()["name"] == "ada"
    assert not cluster.keys


@pytest.mark.parametrize(
    "body", [{"name": "a"}, {"name": "a", "scopes": ["root"]}, {"name": "a", "scopes": ["infer"], "parallel": 0}]
)
def test_a_key_without_a_known_scope_or_with_senseless_limits_is_refused(body: object) -> None:
    cluster = FakeCluster()
    (reply,) = ask(("POST", "/keys", body), cluster=cluster)
    assert reply.status == 400
    assert not cluster.keys


def test_servers_are_started_after_a_warning_stopped_and_made_the_default() -> None:
    first, asked, forced, stopped, switched, listed = ask(
        ("POST", "/servers/coder/start", None),
        ("POST", "/servers/writer/start", {}),
        ("POST", "/servers/writer/start", {"force": True}),
        ("POST", "/servers/coder/stop", None),
        ("PUT", "/servers/default", {"name": "writer"}),
        ("GET", "/servers", None),
    )
    assert first.json()["started"] is True
    assert (asked.json()["started"], asked.json()["running"]) == (False, ["coder"])
    assert forced.json()["started"] is True
    assert stopped.json() == {"message": "coder is stopped."}
    assert switched.status == 200
    assert [(one["name"], one["state"], one["default"]) for one in listed.rows("servers")] == [
        ("coder", "Stopped", False),
        ("writer", "Running", True),
    ]


def test_without_servers_and_ways_in_there_are_none() -> None:
    servers, start, join = ask(
        ("GET", "/servers", None), ("POST", "/servers/x/start", None), ("GET", "/join", None), servers=False
    )
    assert servers.rows("servers") == []
    assert (start.status, join.status) == (404, 404)


def test_only_an_admin_may_use_what_changes_the_house() -> None:
    async def run() -> None:
        cluster = FakeCluster()
        key = cluster.add_key("ada", Scope.INFER, Scope.CHAT, Scope.RAG, Scope.METRICS)
        settings = HttpSettings(http_port=0, drain_within_s=1.0, require_keys=True)
        app = create_app(cluster, settings, SystemClock(), servers=FakeServers("coder"), joining=JOINING)
        async with serving(app, settings) as server:
            for method, path in (
                ("POST", "/transfers"),
                ("DELETE", "/transfers/x"),
                ("POST", "/nodes/x/wake"),
                ("GET", "/join"),
                ("POST", "/join/tokens"),
                ("GET", "/keys"),
                ("POST", "/keys"),
                ("DELETE", "/keys/x"),
                ("GET", "/servers"),
                ("POST", "/servers/coder/start"),
                ("POST", "/servers/coder/stop"),
                ("PUT", "/servers/default"),
            ):
                shown = f"\r\nAuthorization: Bearer {key}\r\n\r\n".encode()
                reply = await send_raw(server.port, written(method, path, None).replace(b"\r\n\r\n", shown))
                assert reply.status == 403, (method, path)

    asyncio.run(run())
