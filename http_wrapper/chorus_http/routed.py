"""How a request was routed, as headers, as `_routing` in a body, and as comments in a stream while it waits."""

from __future__ import annotations

from chorus_http.replies import encoded
from chorus_proto.cluster import CallStarted
from chorus_proto.queue_state import Standing


def started_headers(started: CallStarted) -> dict[str, str]:
    """Of the attempt that gave the first output. Seconds of waiting for a slot and for a load are apart."""
    headers = {
        "x-chorus-node": header_text(started.node_name),
        "x-chorus-model": header_text(started.model),
        "x-chorus-attempt": str(started.attempt),
        "x-chorus-strategy": started.strategy,
        "x-chorus-queue-seconds": f"{started.queued_s - started.load_s:.3f}",
        "x-chorus-load-seconds": f"{started.load_s:.3f}",
    }
    if started.model_digest:
        headers["x-chorus-model-digest"] = header_text(started.model_digest)
    return headers


def standing_headers(standing: Standing) -> dict[str, str]:
    headers = {"x-chorus-queue-position": str(standing.position), "x-chorus-queue-length": str(standing.of)}
    if standing.expected_wait_s is not None:
        headers["x-chorus-expected-wait"] = f"{standing.expected_wait_s:.1f}"
    if standing.load_left_s is not None:
        headers["x-chorus-expected-load"] = f"{standing.load_left_s:.1f}"
    return headers


def standing_comment(standing: Standing) -> bytes:
    """A comment of server-sent events, which their readers skip and people see."""
    words = f"queue position={standing.position} of={standing.of}"
    if standing.expected_wait_s is not None:
        words += f" expected_wait_s={standing.expected_wait_s:.1f}"
    if standing.going_on:
        # Agents' words: a line end in them would end the comment.
        words += f" loading: {' '.join(standing.going_on.split())}"
    return f": {words}\n\n".encode()


def routing_object(started: CallStarted) -> dict[str, object]:
    """`backend` and `model_type` are what callers of seed 004's balancer look for."""
    return {
        "backend": started.node_name,
        "model_type": started.model,
        "node_id": started.node_id,
        "node": started.node_name,
        "model": started.model,
        "model_digest": started.model_digest or None,
        "strategy": started.strategy,
        "attempt": started.attempt,
        "queue_seconds": round(started.queued_s - started.load_s, 3),
        "load_seconds": round(started.load_s, 3),
    }


def with_routing(body: bytes, started: CallStarted) -> bytes:
    """The JSON object `body` with `_routing` as its last field."""
    return b'%b,"_routing":%b}' % (body.rstrip()[:-1], encoded(routing_object(started)))


def routing_chunk(started: CallStarted, *, answer_id: str, kind: str, created_unix_s: int) -> bytes:
    """An event of OpenAI's streams, without choices as the one of the usage is."""
    chunk: dict[str, object] = {
        "id": answer_id,
        "object": kind,
        "created": created_unix_s,
        "model": started.model,
        "choices": [],
        "_routing": routing_object(started),
    }
    return b"data: %b\n\n" % encoded(chunk)


def header_text(text: str) -> str:
    """Names of PCs are people's words: what a header cannot hold becomes `?`."""
    return "".join(c if " " <= c <= "~" else "?" for c in text)
