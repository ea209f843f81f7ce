"""Puts the live parts together."""

from __future__ import annotations

from dataclasses import dataclass

from chorus_http.chats.conversations import Conversations
from chorus_http.gate import Gate
from chorus_http.live.feed import LiveFeed
from chorus_http.live.sockets import Sockets
from chorus_http.live.streams import Streams
from chorus_http.live.verbs import Verbs
from chorus_http.settings import HttpSettings
from chorus_http.state import StateReader
from chorus_proto.clock import Clock
from chorus_proto.cluster import Cluster


@dataclass(frozen=True, slots=True)
class Live:
    feed: LiveFeed
    sockets: Sockets
    streams: Streams

    def drain(self) -> None:
        """The server stops: end what would hold it up."""
        self.feed.close()
        self.sockets.drain()

    async def aclose(self) -> None:
        await self.sockets.aclose()
        await self.feed.aclose()


def live_of(
    cluster: Cluster,
    gate: Gate,
    states: StateReader,
    settings: HttpSettings,
    clock: Clock,
    chats: Conversations | None,
) -> Live:
    feed = LiveFeed(
        cluster,
        clock,
        keep_s=settings.live_kept_s,
        keep_events=settings.live_kept_events,
        within_s=settings.metadata_within_s,
    )
    streams = Streams(cluster, states, settings, clock)
    return Live(feed, Sockets(gate, Verbs(feed, streams, chats).table, settings, clock), streams)
