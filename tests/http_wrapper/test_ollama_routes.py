"""Mirrors chorus_http/routes/ollama.py and ollama_models.py: what other programs than the Python client send."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.support.fake_cluster import MODEL, FakeCluster
from tests.support.http_face import Reply, get, http_face, post, send_raw

HI = [{"role": "user", "content": "hi"}]


def send(*sent: bytes) -> list[Reply]:
    async def run() -> list[Reply]:
        async with http_face(FakeCluster()) as server:
            return [await send_raw(server.port, one) for one in sent]

    return asyncio.run(run())


def body(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def test_the_version_is_three_numbers_that_old_and_new_clients_accept() -> None:
    """Trap 2: Open WebUI calls `int` on each part, Copilot wants 0.6.4 and some clients 0.14 or 0.35."""
    (reply,) = send(get("/api/version"))
    version = reply.json()["version"]
    assert isinstance(version, str)
    numbers = tuple(int(part) for part in version.split("."))
    assert len(numbers) == 3
    assert numbers >= (0, 35, 0)


@pytest.mark.parametrize("path", ["/", "/api/version", "/api/tags"])
def test_a_probe_by_head_gets_a_status_and_no_body(path: str) -> None:
    (reply,) = send(get(path, method="HEAD"))
    assert (reply.status, reply.body) == (200, b"")


def test_old_clients_name_the_model_by_name() -> None:
    """Continue's first request."""
    shown, refused = send(post("/api/show", body(name=MODEL)), post("/api/show", b"{}"))
    assert shown.status == 200
    assert "model_info" in shown.json()
    assert (refused.status, refused.json()["param"]) == (400, "model")


def test_the_examples_of_ollamas_docs_work_with_curls_own_content_type() -> None:
    form = "application/x-www-form-urlencoded"
    whole = body(model=MODEL, prompt="hi", stream=False)
    taken, page, kind = send(
        post("/api/generate", whole, content_type=form),
        post("/api/generate", whole, content_type=form, extra="Origin: http://evil.example\r\n"),
        post("/api/generate", whole, content_type="text/plain"),
    )
    assert taken.json()["response"] == "The capital is Paris."
    assert page.status in (400, 403)
    assert kind.status == 400


def test_streams_are_the_default_and_ndjson() -> None:
    (reply,) = send(post("/api/chat", body(model=MODEL, messages=HI)))
    assert reply.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in reply.body.splitlines()]
    assert [line["done"] for line in lines] == [False, False, True]
    assert all(line["model"] == MODEL and "created_at" in line and "message" in line for line in lines)


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/api/chat", {"messages": "hi"}, "messages"),
        ("/api/chat", {"messages": [{"role": "root", "content": "x"}]}, "messages[0].role"),
        ("/api/chat", {"messages": [{"role": "user"}]}, "messages[0].content"),
        ("/api/chat", {"messages": [{"role": "user", "content": "x", "images": ["aGk="]}]}, "messages[0].images"),
        ("/api/chat", {"messages": HI, "options": {"temperature": -1}}, "options.temperature"),
        ("/api/chat", {"messages": HI, "options": {"temprature": 1}}, "options.temprature"),
        ("/api/chat", {"messages": HI, "options": {"mirostat": 2}}, "options.mirostat"),
        ("/api/chat", {"messages": HI, "options": {"num_predict": 0}}, "options.num_predict"),
        ("/api/chat", {"messages": HI, "options": []}, "options"),
        ("/api/chat", {"messages": HI, "keep_alive": "soon"}, "keep_alive"),
        ("/api/chat", {"messages": HI, "think": "hard"}, "think"),
        ("/api/chat", {"messages": HI, "format": "xml"}, "format"),
        ("/api/chat", {"messages": HI, "top_logprobs": 3}, "top_logprobs"),
        ("/api/chat", {"messages": HI, "stream": "yes"}, "stream"),
        ("/api/generate", {"prompt": "x", "template": "{{ .Prompt }}!"}, "template"),
        ("/api/generate", {"prompt": "x", "context": [1, 2]}, "context"),
        ("/api/generate", {"prompt": "x", "images": ["aGk="]}, "images"),
        ("/api/generate", {"prompt": "x", "raw": True, "system": "s"}, "system"),
        ("/api/generate", {"prompt": "x", "modell": "y"}, "modell"),
        ("/api/pull", {"insecure": True}, "insecure"),
        ("/api/pull", {"username": "me"}, "username"),
    ],
)
def test_what_cannot_be_honoured_is_400_and_names_the_field(path: str, fields: dict[str, object], param: str) -> None:
    (reply,) = send(post(path, body(model=MODEL, **fields)))
    told = reply.json()
    assert (reply.status, told["param"]) == (400, param)
    assert isinstance(told["error"], str) and told["error"]


def test_fields_that_are_the_pcs_business_are_taken() -> None:
    options = {"num_ctx": 8192, "num_gpu": 99, "num_thread": 4, "use_mmap": True, "low_vram": False, "num_keep": 5}
    (reply,) = send(post("/api/chat", body(model=MODEL, messages=HI, stream=False, options=options, truncate=True)))
    assert reply.status == 200


def test_a_blob_is_not_here() -> None:
    (reply,) = send(get(f"/api/blobs/sha256:{'0' * 64}", method="HEAD"))
    assert reply.status == 404
