"""Section E of the attack list, through the real wrapper and hub: names, digests and values that want to be paths or
flags. What an agent makes of such words in its own files is tested beside its modules."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.support.http_face import Reply, http_face, post, send_raw
from tests.support.small_cluster import SmallCluster, small_cluster

TRAVERSALS = (
    "../../x",
    "/etc/passwd",
    "C:\\x",
    "\\\\h\\s\\x",
    "x:ads/../y",
    "CON",
    "x.gguf\0.txt",
    "x.gguf.",
    "a/b:c@sha256:zz",
    "--model-url",
    "$(id)",
    "x; touch y",
    "a\nb",
    "x" * 10_240,
)
VALUES: tuple[object, ...] = ("4096; touch x", "$(id)", "1\n2", "--rpc", "1e3", [1], {"a": 1}, True)


Sent: TypeAlias = tuple[str, Mapping[str, object]]


def played(folder: Path, *sent: Sent) -> list[Reply]:
    """Each request on its own connection to a hub with one node; afterwards a good request must be served."""

    async def run() -> list[Reply]:
        async with small_cluster(folder, "attic") as small, http_face(small.coordinator) as server:
            before = loads(small)
            replies = [await send_raw(server.port, post(path, json.dumps(body).encode())) for path, body in sent]
            assert loads(small) == before, "no engine heard of any of it"
            good = {"model": "echo", "messages": [{"role": "user", "content": "hi"}]}
            assert (await send_raw(server.port, post("/v1/chat/completions", json.dumps(good).encode()))).status == 200
            return replies

    return asyncio.run(run())


def loads(small: SmallCluster) -> int:
    return len(small.agents["attic"].engine.loads)


def check(replies: list[Reply], *allowed: int) -> None:
    for reply in replies:
        assert reply.status in (400, 404, *allowed), (reply.status, reply.body[:300])
        assert b"Traceback" not in reply.body and b".py" not in reply.body


def chat(model: object, **more: object) -> dict[str, object]:
    return {"model": model, "messages": [{"role": "user", "content": "hi"}], **more}


def test_e01_a_name_that_wants_to_be_a_path_or_a_flag_is_no_model(tmp_path: Path) -> None:
    sent: list[Sent] = []
    for name in TRAVERSALS:
        sent += [(path, chat(name, stream=False)) for path in ("/v1/chat/completions", "/api/chat")]
        sent += [(path, {"model": name}) for path in ("/api/show", "/models/load", "/models/unload")]
    check(played(tmp_path, *sent))


def test_e01_nothing_is_fetched_under_such_a_name(tmp_path: Path) -> None:
    names = [name for name in TRAVERSALS if name != "CON"]  # an ordinary word in a registry; a folder never gets it
    urls = ["file:///etc/passwd", "http://x/../../y", "http://127.0.0.1:1/x.bin", "http://[::1]/x.gguf\0"]
    # 503: a registry may have it, and no PC of this hub could fetch it.
    check(played(tmp_path, *[("/api/pull", {"model": name, "stream": False}) for name in (*names, *urls)]), 503)


def test_e04_a_value_is_a_number_or_refused_and_never_a_word_of_a_command_line(tmp_path: Path) -> None:
    sent: list[tuple[str, dict[str, object]]] = []
    for value in VALUES:
        sent += [
            ("/api/chat", chat("echo", stream=False, options={name: value})) for name in ("num_ctx", "num_predict")
        ]
        sent += [("/v1/chat/completions", chat("echo", **{name: value})) for name in ("max_tokens", "seed", "top_p")]
    check(played(tmp_path, *sent))


@pytest.mark.parametrize(
    "name", ["--rpc", "rpc", "model_url", "lora", "slot_save_path", "log_file", "n_discard", "id_slot"]
)
def test_e04_what_opens_files_or_ports_is_no_parameter_of_a_request(tmp_path: Path, name: str) -> None:
    sent = [("/v1/chat/completions", chat("echo", **{name: "x"})), ("/api/chat", chat("echo", options={name: "x"}))]
    check(played(tmp_path, *sent))


def test_e06_a_digest_that_is_none_names_no_blob(tmp_path: Path) -> None:
    async def run() -> None:
        async with small_cluster(tmp_path, "attic") as small, http_face(small.coordinator) as server:
            for digest in ("sha256-..%2f..%2fx", "sha256:" + "a" * 63, "sha256:" + "A" * 64, "%00", "x" * 5_000):
                for method in ("GET", "POST", "HEAD"):
                    head = f"{method} /api/blobs/{digest} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                    reply = await send_raw(server.port, f"{head}Content-Length: 0\r\n\r\n".encode())
                    assert reply.status in (400, 404), (method, digest, reply.status)

    asyncio.run(run())
