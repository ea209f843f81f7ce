"""What can be set on the HTTP wrapper."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from chorus_proto.exposure import ALLOWED_HOSTS, INSECURE, REQUIRE_KEYS, TLS
from chorus_proto.settings import SettingsError, rising, setting

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s*,]+")
"""Each by itself: with `*` every page that a person visits could use this server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings:
    """Seconds and bytes as the names say. Ports in 0-65535; 0 picks a free one."""

    host: str = setting("127.0.0.1", "address to listen on; 0.0.0.0 for every PC on the LAN")
    http_port: int = setting(5001, "port for HTTP callers; 0 picks a free one", minimum=0, maximum=65535)
    ollama_port: int | None = setting(
        None,
        "a second port for programs that look for Ollama, e.g. 11434; 0 picks a free one",
        minimum=0,
        maximum=65535,
    )
    state_dir: Path = setting(Path("~/.chorus"), "folder of everything that survives a restart")
    insecure: bool = setting(False, INSECURE)
    require_keys: bool | None = setting(None, REQUIRE_KEYS)
    tls: bool | None = setting(None, TLS)
    tls_cert: Path | None = setting(
        None, "certificate of your own for HTTP callers, PEM with its chain; else the hub issues one itself"
    )
    tls_key: Path | None = setting(None, "its private key, PEM")
    allowed_hosts: tuple[str, ...] = setting((), ALLOWED_HOSTS)
    key_requests_per_minute: int = setting(60, "requests a minute of one key's user; 0: no limit", minimum=0)
    key_parallel: int = setting(8, "requests at once of one key's user; 0: no limit", minimum=0)
    address_requests_per_minute: int = setting(
        600, "requests a minute of one address beyond this PC that shows no key; 0: no limit", minimum=0
    )
    body_limit_bytes: int = setting(10 * 1024 * 1024, "largest request body", minimum=1024)
    body_within_s: float = setting(30.0, "a body that takes longer to arrive is refused", minimum=0.1)
    head_limit_bytes: int = setting(16 * 1024, "request line and headers together", minimum=1024)
    head_limit_fields: int = setting(100, "header lines of one request", minimum=10)
    head_within_s: float = setting(10.0, "headers that take longer to arrive are refused", minimum=0.1)
    request_within_s: float = setting(1800.0, "longest time of one request, queue included", minimum=1)
    metadata_within_s: float = setting(2.0, "longest wait for the coordinator by /status and its like", minimum=0.1)
    ping_every_s: float = setting(1.0, "seconds between comments on a silent stream", minimum=0.1)
    stream_open_after_s: float = setting(
        3.0, "a stream without output by now is opened; before, a failure still gets its own status", minimum=0
    )
    stream_buffer_bytes: int = setting(256 * 1024, "unread bytes of one stream before its node pauses", minimum=4096)
    stall_within_s: float = setting(30.0, "a caller who reads nothing for this long is cut off", minimum=1)
    keep_alive_s: float = setting(75.0, "an idle connection is closed after this", minimum=1)
    drain_within_s: float = setting(30.0, "running requests may finish for this long at shutdown", minimum=0)
    live_kept_s: float = setting(60.0, "events of the cluster are kept so long for pages that come back", minimum=1)
    live_kept_events: int = setting(1_000, "events kept for them at most", minimum=10, maximum=100_000)
    live_ping_s: float = setting(
        10.0, "seconds between pings of a socket, and again until one without an answer is closed", minimum=0.1
    )
    live_message_bytes: int = setting(64 * 1024, "largest message of a socket", minimum=1024)
    live_events_per_s: int = setting(20, "events a second of one socket", minimum=1)
    live_sockets_per_key: int = setting(16, "sockets of one key, or of one address without keys", minimum=1)
    live_sockets_limit: int = setting(1_024, "sockets of all", minimum=1)
    cors_origins: tuple[str, ...] = setting((), "origins whose web pages may call; none by default")
    log_requests: bool = setting(False, "one log line for each request, never with prompts")
    chat_others_every_s: float = setting(
        1.0,
        "how often open chats look for changes by other HTTP processes on the same state folder; 0: never",
        minimum=0,
    )
    responses_age_s: float = setting(
        30 * 86_400.0, "answers of /v1/responses are kept for so long; beyond a restart too", minimum=60
    )
    responses_bytes: int = setting(
        256 * 1024**2, "room for kept answers of /v1/responses; the oldest go first", minimum=1024**2
    )
    rag_database: str = setting(
        "", "postgresql:// address of a server with pgvector for documents; empty: a file in state_dir", secret=True
    )
    rag_embedding_model: str = setting(
        "", "model on the nodes that makes the vectors of documents; empty: the one that comes with Chorus"
    )
    rag_rerank_model: str = setting(
        "", "model that orders passages again for callers who ask; empty: the largest loaded"
    )
    rag_least_similarity: float | None = setting(
        None,
        "a question further than this from every passage is not answered; by default 0.34 for the embedding model that "
        "Chorus brings, 0 for others",
        minimum=0,
        maximum=1,
    )
    rag_upload_limit_bytes: int = setting(64 * 1024 * 1024, "largest upload of documents", minimum=1024)
    rag_upload_within_s: float = setting(600.0, "an upload that takes longer to arrive is refused", minimum=0.1)
    rag_parse_within_s: float = setting(30.0, "a document that takes longer to read is refused", minimum=0.1)
    rag_embed_within_s: float = setting(120.0, "longest wait for the vectors of a few texts", minimum=0.1)
    rag_memory_bytes: int = setting(
        2 * 1024**3, "vectors held in memory; a collection with more needs rag_database", minimum=1024**2
    )
    rag_folders: tuple[Path, ...] = setting((), "folders of this PC whose documents callers may have taken in")

    def check(self) -> None:
        """Raises SettingsError for two settings that contradict each other."""
        rising(self, "stream_open_after_s", "request_within_s")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise SettingsError("tls_cert and tls_key belong together: set both, or neither")
        for origin in self.cors_origins:
            if not _ORIGIN.fullmatch(origin):
                raise SettingsError(
                    f"cors_origins: {origin!r} is no origin; name each one in full, as https://chat.example.org"
                )
