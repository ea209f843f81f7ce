"""Documents whose vectors the nodes make, and two HTTP addresses beside one coordinator: real processes throughout."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.whole.support import cluster

WEAK = Path(__file__).parents[2] / "docs" / "hardware" / "weak.toml"
EMBEDDER = "all-minilm-l6-v2"
TEXT = "# Leave\n\nEvery employee gets 27 days of paid holiday.\n\n# Parking\n\nA space costs 40 euros a month."


@pytest.mark.timeout(180)
def test_nodes_make_the_vectors_and_chats_of_two_addresses_stay_in_step(tmp_path: Path) -> None:
    with cluster(tmp_path) as chorus:
        ready = chorus.up(f"--hardware={WEAK}", f"--rag-embedding-model={EMBEDDER}").ready()
        second = chorus.start("http", f"--coordinator={ready['grpc_address']}", "--http-port=0", label="http")
        with (
            httpx.Client(base_url=str(ready["http_url"]), timeout=60) as one,
            httpx.Client(base_url=str(second.ready()["http_url"]), timeout=60) as other,
        ):
            _documents(one)
            _other_address(one, other)


def _documents(http: httpx.Client) -> None:
    added = http.post("/rag/documents", json={"text": TEXT, "title": "House"})
    assert added.status_code == 200, added.text
    (found,) = http.post("/rag/search", json={"query": "How much vacation do I have?", "top_k": 1}).json()["results"]
    assert found["headings"] == ["Leave"]
    (collection,) = http.get("/rag/collections").json()["collections"]
    assert collection["dimensions"] == 384
    far = http.post("/rag/ask", json={"question": "Who won?", "least_similarity": 0.99}).json()
    assert far["unanswered_because"] == "too_far"


def _other_address(one: httpx.Client, other: httpx.Client) -> None:
    session = one.post("/chat/sessions", json={"title": "Both"}).json()["id"]
    with other.stream("GET", f"/chat/sessions/{session}/events", timeout=30) as tab:
        lines = tab.iter_lines()
        assert next(line for line in lines if line.startswith("event: ")) == "event: snapshot"
        one.put(f"/chat/sessions/{session}/title", json={"title": "Renamed"})
        assert next(line for line in lines if line.startswith("event: ")) == "event: changed"
        assert '"title":"Renamed"' in next(line for line in lines if line.startswith("data: "))
    # The documents' file is of the first one, and the second says so.
    assert other.get("/rag/documents").json()["error"]["code"] == "store_unavailable"
