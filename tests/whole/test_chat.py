"""Chat sessions of a real hub with a real engine: answered, trimmed, and still there after a restart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import pytest

from tests.whole.support import Chorus, Running, cluster, http

Json = dict[str, object]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Chorus, Running]]:
    with cluster(tmp_path_factory.mktemp("chat")) as chorus:
        up = chorus.up("--name=attic", "--no-microbench")
        up.ready()
        yield chorus, up


def say(url: str, session: str, content: str) -> Json:
    reply = http(f"{url}/chat/sessions/{session}/messages", {"content": content, "temperature": 0, "max_tokens": 64})
    assert reply.status == 200, reply.body
    return cast("Json", reply.json()["message"])


def test_a_chat_outgrows_the_context_goes_on_and_survives_a_restart(hub: tuple[Chorus, Running]) -> None:
    chorus, up = hub
    url = str(up.ready()["http_url"])
    session = str(http(f"{url}/chat/sessions", {}).json()["id"])
    first = say(url, session, "What is the capital of France?")
    assert first["content"] == "The capital of France is Paris."
    facts: Json = {}
    for number in range(24):
        message = say(url, session, f"What is the capital of Italy? {'I ask again. ' * 12}{number}")
        facts = cast("Json", message["answer"])
        assert facts["finish_reason"] in ("stop", "length")
    assert cast("Json", facts["trimmed"])["dropped_messages"]
    assert cast("int", facts["prompt_tokens"]) < 1024
    stream = http(f"{url}/chat/sessions/{session}/messages", {"content": "What is 2 plus 3?", "stream": True})
    assert b"event: delta" in stream.body
    assert b"event: finished" in stream.body
    up.stop()
    again = chorus.up("--name=attic", "--no-microbench")
    url = str(again.ready()["http_url"])
    found = cast("list[Json]", http(f"{url}/chat/search?q=capital+france").json()["results"])
    assert {one["session_id"] for one in found} == {session}
    shown = http(f"{url}/chat/sessions/{session}").json()
    assert len(cast("list[Json]", shown["messages"])) == 52
    assert shown["title"] == "What is the capital of France?"
