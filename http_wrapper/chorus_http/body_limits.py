"""How large a request's body may be and how long it may take to arrive: files are larger than prompts."""

from __future__ import annotations

from chorus_http.settings import HttpSettings


def body_limit_bytes(settings: HttpSettings, path: str) -> int:
    usual = settings.body_limit_bytes
    return max(usual, settings.rag_upload_limit_bytes) if _is_upload(path) else usual


def body_within_s(settings: HttpSettings, path: str) -> float:
    return max(settings.body_within_s, settings.rag_upload_within_s) if _is_upload(path) else settings.body_within_s


def _is_upload(path: str) -> bool:
    return path.rstrip("/") == "/rag/documents"
