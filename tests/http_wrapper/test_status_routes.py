"""Mirrors chorus_http/routes/{status,query}.py and state.py: the fields that callers of the first versions read."""

from __future__ import annotations

import asyncio
import dataclasses

from chorus_http.settings import HttpSettings
from chorus_proto.errors import CoordinatorUnavailable, ModelNotFound
from chorus_proto.ids import ModelName
from chorus_proto.values import AggregateStrategy, CouncilSummary, Courtesy, NodeState
from tests.support.fake_cluster import MODEL, NODE, FakeCluster, council, failing
from tests.support.http_face import Reply, get, http_face, post, send_raw


def ask(cluster: FakeCluster, *sent: bytes, metadata_within_s: float = 2.0) -> list[Reply]:
    async def run() -> list[Reply]:
        limits = HttpSettings(http_port=0, metadata_within_s=metadata_within_s, drain_within_s=1.0)
        async with http_face(cluster, limits) as server:
            return [await send_raw(server.port, one) for one in sent]

    return asyncio.run(run())


def test_the_root_describes_the_service() -> None:
    (reply,) = ask(FakeCluster(), get("/"))
    body = reply.json()
    assert (reply.status, body["name"], body["version"]) == (200, "Chorus", "0.1.0")
    assert "POST /query" in str(body["endpoints"])


def test_health_and_status_keep_the_first_versions_fields() -> None:
    health, status = ask(FakeCluster(), get("/health"), get("/status"))
    assert {"healthy": True, "connected_clients": 1, "active_models": 1}.items() <= health.json().items()
    assert health.json()["message"] == "Server healthy. 1 clients, 1 active models."
    expected = {"total_clients": 1, "active_clients": 1, "available_models": [MODEL], "healthy": True}
    assert expected.items() <= status.json().items()
    assert "client-attic-pc-6f1d1a" in str(status.json()["clients"])


def test_ready_needs_a_coordinator_and_a_ready_model() -> None:
    cluster = FakeCluster()
    assert ask(cluster, get("/readyz"))[0].status == 200
    cluster.shown_state = dataclasses.replace(cluster.shown_state, models=())
    (reply,) = ask(cluster, get("/readyz"))
    assert (reply.status, reply.json()["reason"]) == (503, "No model is loaded yet.")
    cluster.shown_state = dataclasses.replace(cluster.shown_state, nodes=())
    (reply,) = ask(cluster, get("/readyz"))
    assert (reply.status, reply.json()["reason"]) == (503, "No PC is connected.")
    cluster.shown_state = dataclasses.replace(cluster.shown_state, draining=True)
    assert ask(cluster, get("/readyz"))[0].status == 503


def test_without_a_coordinator_reads_are_503_at_once_and_health_stays_live() -> None:
    cluster = FakeCluster()
    cluster.state_error = CoordinatorUnavailable("The coordinator at 127.0.0.1:50051 cannot be reached.")
    status, models, ready, health, metrics = ask(
        cluster, get("/status"), get("/v1/models"), get("/readyz"), get("/health"), get("/metrics")
    )
    for reply in (status, models):
        assert (reply.status, reply.error()["code"]) == (503, "coordinator_unavailable")
        assert reply.headers["retry-after"] == "2"
    assert ready.status == 503
    assert (health.status, health.json()["healthy"]) == (200, False)
    assert b"chorus_http_coordinator_up 0.0" in metrics.body


def test_a_coordinator_that_hangs_counts_as_away() -> None:
    cluster = FakeCluster()
    cluster.state_hangs = True
    (reply,) = ask(cluster, get("/v1/models"), metadata_within_s=0.05)
    assert (reply.status, reply.error()["code"]) == (503, "coordinator_unavailable")


def test_metrics_join_both_processes_and_name_no_callers_words() -> None:
    *_, reply = ask(FakeCluster(), get("/v1/models/secret-name"), get("/secret-path"), get("/metrics"))
    assert reply.headers["content-type"].startswith("text/plain")
    assert b'chorus_http_requests_total{route="/v1/models/<path:name>",status="404"} 1.0' in reply.body
    assert b'chorus_http_requests_total{route="other",status="404"} 1.0' in reply.body
    assert b"chorus_nodes 1.0" in reply.body
    assert b"chorus_http_coordinator_up 1.0" in reply.body
    assert b"secret" not in reply.body


def test_reassign_says_what_went_where_and_why() -> None:
    (reply,) = ask(FakeCluster(), post("/reassign", b"", content_type=None))
    assert reply.status == 200
    assert reply.json()["assignments"] == [
        {
            "node_id": NODE,
            "node": "attic-pc",
            "model": MODEL,
            "previous_model": None,
            "reason": "the largest that fits",
        }
    ]


def test_a_query_returns_every_member_the_aggregate_and_who_is_missing() -> None:
    cluster = FakeCluster()
    cluster.ask_events = council()
    (reply,) = ask(cluster, post("/query", b'{"prompt":"hi","strategy":"longest"}'))
    body = reply.json()
    assert (body["answer"], body["response"], body["strategy"], body["prompt"]) == ("é!", "é!", "longest", "hi")
    assert (body["agreement"], body["missing"]) == (1.0, ["cellar-pc"])
    members = body["members"]
    assert isinstance(members, list)
    assert members[0] == {
        "node_id": NODE,
        "member": 0,
        "node": "attic-pc",
        "model": MODEL,
        "text": "é!",
        "seconds": 0.5,
        "tokens": 2,
        "tokens_per_s": 4.0,
        "finish_reason": "stop",
    }
    assert members[1]["error"] == {"code": "internal", "message": "the node went away"}
    assert cluster.cancelled == []


def test_councils_are_listed_beside_the_models() -> None:
    cluster = FakeCluster()
    council_of_all = CouncilSummary(name=ModelName("council/all"), strategy=AggregateStrategy.VOTE, members="every PC")
    cluster.shown_state = dataclasses.replace(cluster.shown_state, councils=(council_of_all,))
    listed, one = ask(cluster, get("/v1/models"), get("/v1/models/council/all"))
    data = listed.json()["data"]
    assert isinstance(data, list)
    assert data[-1] == one.json()
    assert (one.json()["id"], one.json()["object"]) == ("council/all", "model")
    assert one.json()["x_chorus"] == {"council": True, "strategy": "vote", "members": "every PC"}


def test_an_error_names_its_field_in_openais_shape() -> None:
    error = ModelNotFound("No node has 'x'.", param="model")
    body = b'{"model":"x","messages":[{"role":"user","content":"hi"}]}'
    (reply,) = ask(FakeCluster(failing(error)), post("/v1/chat/completions", body))
    assert reply.status == 404
    assert reply.json() == {
        "error": {
            "message": "No node has 'x'.",
            "type": "invalid_request_error",
            "param": "model",
            "code": "model_not_found",
        }
    }


def test_a_pc_shows_what_it_leaves_to_its_owner_how_it_can_be_woken_and_that_it_sleeps() -> None:
    cluster = FakeCluster()
    (node,) = cluster.shown_state.nodes
    polite = dataclasses.replace(
        node, courtesy=Courtesy(slots=1, reason="on battery, 20 %"), mac_addresses=("1c:69:7a:00:00:01",)
    )
    asleep = dataclasses.replace(node, name="cellar", state=NodeState.ASLEEP)
    cluster.shown_state = dataclasses.replace(cluster.shown_state, nodes=(polite, asleep))
    (status,) = ask(cluster, get("/status"))
    attic, cellar = status.rows("clients")
    assert attic["courtesy"] == {"paused": False, "slots": 1, "reason": "on battery, 20 %"}
    assert attic["mac_addresses"] == ["1c:69:7a:00:00:01"]
    assert (cellar["courtesy"], cellar["state"]) == (None, "asleep")


def test_a_cluster_whose_pcs_all_sleep_is_not_ready() -> None:
    cluster = FakeCluster()
    asleep = dataclasses.replace(cluster.shown_state.nodes[0], state=NodeState.ASLEEP)
    cluster.shown_state = dataclasses.replace(cluster.shown_state, nodes=(asleep,))
    (reply,) = ask(cluster, get("/readyz"))
    assert (reply.status, reply.json()["reason"]) == (503, "No PC is connected.")
