"""Documents as a person has them: `chorus up`, the bundled embedding model, a demo model to answer, and a restart."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import httpx

from tests.whole.support import cluster, eventually

TEXT = "# Leave\n\nEvery employee gets 27 days of paid holiday.\n\n# Parking\n\nA space costs 40 euros a month."


def best(http: httpx.Client, query: str) -> dict[str, object]:
    (found,) = http.post("/rag/search", json={"query": query, "top_k": 1}).json()["results"]
    return cast("dict[str, object]", found)


def test_documents_are_found_by_meaning_answered_from_and_there_after_a_kill(tmp_path: Path) -> None:
    with cluster(tmp_path) as chorus:
        hub = chorus.up("--no-microbench")
        with httpx.Client(base_url=str(hub.ready()["http_url"]), timeout=60) as http:
            added = http.post("/rag/documents", files={"file": ("house.md", TEXT.encode())}).json()
            assert (added["chunks"], added["complete"]) == (2, True)
            (found,) = http.post("/rag/search", json={"query": "How much vacation do I have?", "top_k": 1}).json()[
                "results"
            ]
            assert found["headings"] == ["Leave"]
            asked = http.post("/rag/ask", json={"question": "How many days of holiday?", "max_tokens": 16}).json()
            assert asked["answered"] is True
            assert asked["answer"]
            assert asked["sources"][0]["headings"] == ["Leave"]
        assert len(hub.family()) == 4, "hub, agent, engine and the embedding model's own"
        hub.kill()
        eventually(lambda: not hub.family(), within_s=10, what="all its processes have ended")

        hub = chorus.up("--no-microbench", "--no-agent")
        with httpx.Client(base_url=str(hub.ready()["http_url"]), timeout=60) as http:
            found = best(http, "price to leave my car")
            assert (found["document_id"], found["headings"]) == (added["id"], ["Parking"])
            again = http.post("/rag/documents", files={"file": ("house.md", TEXT.encode())}).json()
            assert (again["unchanged"], again["id"]) == (True, added["id"])
        assert hub.stop() == 0
        assert hub.family() == []
