"""Puts the parts of this package together for one app."""

from __future__ import annotations

from dataclasses import dataclass

from quart import Blueprint

from chorus_http.chat_documents import ChatDocuments
from chorus_http.metrics import HttpMetrics
from chorus_http.rag.chat_option import Documents
from chorus_http.rag.finding import Finder
from chorus_http.rag.opening import LibraryDoor
from chorus_http.routes.rag import rag_routes
from chorus_http.settings import HttpSettings
from chorus_http.state import StateReader
from chorus_proto.cluster import Cluster


@dataclass(frozen=True, slots=True)
class RagParts:
    routes: Blueprint
    chat: ChatDocuments


def documents_of(
    door: LibraryDoor, cluster: Cluster, states: StateReader, settings: HttpSettings, metrics: HttpMetrics
) -> RagParts:
    finder = Finder(door, cluster, states, rerank_model=settings.rag_rerank_model, within_s=settings.request_within_s)
    return RagParts(rag_routes(door, finder, cluster, states, settings, metrics), Documents(finder, states))
