"""The description of the API: complete, true to the code, and held against the running server."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from chorus_http.app import create_app
from chorus_http.chats.store import ChatStore
from chorus_http.openapi.document import openapi_document
from chorus_http.openapi.parts import PARTS
from chorus_http.openapi.table import OPERATIONS, REQUESTS
from chorus_http.rag.opening import library_door
from chorus_http.rights import RIGHTS
from chorus_http.settings import HttpSettings
from chorus_proto.clock import SystemClock
from chorus_proto.cluster import Call
from chorus_proto.generation import Delta, Done, Generation, Piece
from chorus_proto.values import Replica, ReplicaReport, ReplicaState
from tests.support.embedder import WordEmbedder
from tests.support.fake_cluster import MODEL, FakeCluster, council, paris, ready_state
from tests.support.http_face import get, http_face, send_raw

EXAMPLES = 8
"""Of each operation: the run is repeated with every build, each time with others."""
WITHIN_S = 240.0
ENDLESS = ("/models/sse", "/events", "/chat/events", "/chat/sessions/{session_id}/events")


def routes(tmp_path: Path) -> Iterator[str]:
    with closing(ChatStore.open(tmp_path / "chats.sqlite")) as chats:
        app = create_app(FakeCluster(), HttpSettings(), SystemClock(), chats=chats)
        for rule in app.url_map.iter_rules():
            for method in (rule.methods or set[str]()) - {"HEAD", "OPTIONS"}:
                yield f"{method} {rule.rule}"


def within(value: object) -> Iterator[dict[str, object]]:
    """Every object of the document."""
    if isinstance(value, dict):
        yield cast("dict[str, object]", value)
        for inner in cast("dict[str, object]", value).values():
            yield from within(inner)
    elif isinstance(value, list):
        for inner in cast("list[object]", value):
            yield from within(inner)


@asynccontextmanager
async def chat_store(folder: Path) -> AsyncGenerator[ChatStore, None]:
    with closing(ChatStore.open(folder / "chats.sqlite")) as store:
        yield store


async def texts_or_vectors(call: Call) -> AsyncGenerator[Piece, None]:
    inputs = Generation.decoded(call.generation).inputs
    if inputs is None:
        async for piece in paris(call):
            yield piece
        return
    for _ in inputs:
        yield Delta("[0.6,0.8]\n")
    yield Done(finish_reason="stop", prompt_tokens=len(inputs))


def test_every_route_is_described_and_nothing_else_is(tmp_path: Path) -> None:
    served = set(routes(tmp_path))
    assert served - set(OPERATIONS) == set(), "describe these in openapi/table.py"
    assert set(OPERATIONS) - served == set(), "openapi/table.py describes routes that are gone"
    assert set(OPERATIONS) == set(RIGHTS)


def test_every_reference_leads_somewhere_and_every_operation_has_its_own_name() -> None:
    document = openapi_document()
    components = cast("dict[str, dict[str, object]]", document["components"])
    targets = {f"#/components/schemas/{name}" for name in components["schemas"]}
    objects = list(within(document))
    assert {str(one["$ref"]) for one in objects if "$ref" in one} <= targets
    names = [one["operationId"] for one in objects if "operationId" in one]
    assert len(names) == len(set(names)) == len(OPERATIONS)


def test_the_schemas_written_by_hand_are_those_of_fields_that_are_checked_by_hand() -> None:
    for request, parts in PARTS.items():
        hints = REQUESTS[request].__annotations__ | {
            name: kind
            for base in REQUESTS[request].__mro__
            for name, kind in vars(base).get("__annotations__", {}).items()
        }
        assert {name for name in parts if "Unchecked" not in str(hints[name])} <= {"images"}, request


def test_no_field_of_a_request_beyond_the_described_ones_is_allowed() -> None:
    components = cast("dict[str, dict[str, dict[str, object]]]", openapi_document()["components"])
    assert {name: components["schemas"][name].get("additionalProperties") for name in REQUESTS} == dict.fromkeys(
        REQUESTS, False
    )


def test_the_page_loads_nothing_from_elsewhere_and_runs_its_own_script_only() -> None:
    async def run() -> None:
        async with http_face(FakeCluster()) as server:
            page = await send_raw(server.port, get("/docs"))
            assert page.headers["content-type"].startswith("text/html")
            assert not re.findall(rb"(?:src|href)\s*=|@import|https?://", page.body)
            policy = page.headers["content-security-policy"]
            assert policy.startswith("default-src 'none'; style-src 'sha256-")
            assert "script-src 'sha256-" in policy and "unsafe" not in policy
            document = await send_raw(server.port, get("/openapi.json"))
            assert document.json()["openapi"] == "3.1.0"

    asyncio.run(run())


@pytest.mark.timeout(WITHIN_S + 10)
def test_a_property_based_run_over_the_document_finds_no_5xx_and_no_breach_of_a_schema(tmp_path: Path) -> None:
    async def run() -> tuple[int, str]:
        cluster = FakeCluster(texts_or_vectors)
        cluster.ask_events = council()
        state = ready_state()
        loaded = Replica(report=ReplicaReport(model=MODEL, state=ReplicaState.READY))
        cluster.shown_state = replace(state, nodes=(replace(state.nodes[0], replicas=(loaded,)),))
        settings = HttpSettings(http_port=0, drain_within_s=1.0, address_requests_per_minute=0)
        settings = replace(settings, state_dir=tmp_path)
        async with (
            chat_store(tmp_path) as chats,
            library_door(settings, WordEmbedder(), SystemClock()) as documents,
            http_face(cluster, settings, documents, chats=chats) as server,
        ):
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"),
                "--checks=not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
                "--phases=coverage,fuzzing",
                f"--max-examples={EXAMPLES}",
                *(f"--exclude-path={path}" for path in ENDLESS),
                "--request-timeout=20",
                "--generation-database=none",
                "--no-color",
                cwd=tmp_path,  # it leaves a folder behind
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            try:
                async with asyncio.timeout(WITHIN_S):
                    said, _ = await process.communicate()
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
            return process.returncode or 0, said.decode(errors="replace")

    code, said = asyncio.run(run())
    assert code == 0, said
    # It leaves out the document that it reads.
    assert f"Tested: {len(OPERATIONS) - 1 - len(ENDLESS)}" in said, said
