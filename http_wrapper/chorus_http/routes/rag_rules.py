"""The routes of documents, by the names of what answers them; the same whether their packages are installed or not."""

from __future__ import annotations

RAG_RULES = (
    ("add", "POST", "/rag/documents"),
    ("documents", "GET", "/rag/documents"),
    ("document", "GET", "/rag/documents/<document_id>"),
    ("delete_document", "DELETE", "/rag/documents/<document_id>"),
    ("add_folder", "POST", "/rag/folders"),
    ("collections", "GET", "/rag/collections"),
    ("delete_collection", "DELETE", "/rag/collections/<name>"),
    ("ingests", "GET", "/rag/ingests"),
    ("ingest", "GET", "/rag/ingests/<ingest_id>"),
    ("ingest_events", "GET", "/rag/ingests/<ingest_id>/events"),
    ("cancel_ingest", "DELETE", "/rag/ingests/<ingest_id>"),
    ("search", "POST", "/rag/search"),
    ("ask", "POST", "/rag/ask"),
)
"""Name, method, rule."""
