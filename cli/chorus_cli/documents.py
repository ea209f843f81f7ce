"""Documents for the HTTP wrapper, where the packages for them are installed: their store and their embedding model."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from chorus_cli.embedding_engine import EmbeddingEngine
from chorus_http.settings import HttpSettings
from chorus_http.state import StateReader
from chorus_proto.clock import Clock
from chorus_proto.cluster import Cluster

if TYPE_CHECKING:
    from chorus_http.rag.embedder import Embedder
    from chorus_http.rag.opening import LibraryDoor

log = logging.getLogger(__name__)

NEEDED = ("charset_normalizer", "defusedxml", "numpy", "pypdf")
"""What the extra `rag` installs."""


@asynccontextmanager
async def documents_door(settings: HttpSettings, cluster: Cluster, clock: Clock) -> AsyncGenerator[LibraryDoor | None]:
    """While the block runs; None without the extra `rag`. Nothing is opened or started before somebody asks for it."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        log.info("no documents: %s not installed (pip install 'chorus-llm[rag]')", ", ".join(missing))
        yield None
        return
    from chorus_http.rag.opening import library_door

    async with library_door(settings, _embedder(settings, cluster), clock) as door:
        yield door


def _embedder(settings: HttpSettings, cluster: Cluster) -> Embedder:
    from chorus_http.rag.cluster_embedder import ClusterEmbedder
    from chorus_http.rag.engine_embedder import EngineEmbedder
    from chorus_http.rag.node_vectors import NodeVectors

    within_s = settings.rag_embed_within_s
    if not settings.rag_embedding_model:
        return EngineEmbedder(EmbeddingEngine(), within_s=within_s)
    source = NodeVectors(cluster, within_s=within_s)
    states = StateReader(cluster, within_s=settings.metadata_within_s)
    return ClusterEmbedder(settings.rag_embedding_model, source, states, within_s=within_s)
