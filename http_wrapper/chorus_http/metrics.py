"""What the HTTP face counts, in a Prometheus registry of its own, so that two apps in one process do not mix."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_DURATIONS_S = (0.005, 0.025, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)

PINGS_PER_S = 500
"""Thousands of streams may wait in the queue, and each ping costs as much as a token."""


class HttpMetrics:
    """Labels are route patterns and statuses only: never anything that a caller can choose."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "chorus_http_requests", "Requests answered.", ("route", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "chorus_http_request_seconds",
            "From the request's head to the last byte of its answer.",
            ("route",),
            buckets=_DURATIONS_S,
            registry=self.registry,
        )
        self._series: dict[tuple[str, int], tuple[Counter, Histogram]] = {}
        """By route and status: to look them up anew costs more than to count."""
        self._sent = Counter("chorus_http_sent_bytes", "Bytes of response bodies.", registry=self.registry)
        self._open = 0
        self._streams_open = Gauge("chorus_http_streams_open", "Streams being sent now.", registry=self.registry)
        self.coordinator_up = Gauge(
            "chorus_http_coordinator_up", "1 when the coordinator answered this scrape.", registry=self.registry
        )

    def stream_opened(self) -> None:
        self._open += 1
        self._streams_open.set(self._open)

    def stream_closed(self) -> None:
        self._open -= 1
        self._streams_open.set(self._open)

    def ping_every_s(self, wished_s: float) -> float:
        """How often each silent stream says so, that all together do it `PINGS_PER_S` times a second at most."""
        return max(wished_s, self._open / PINGS_PER_S)

    def finished(self, route: str, status: int, seconds: float, sent_bytes: int) -> None:
        series = self._series.get((route, status))
        if series is None:
            found = self._requests.labels(route, str(status)), self._seconds.labels(route)
            series = self._series[route, status] = found
        series[0].inc()
        series[1].observe(seconds)
        self._sent.inc(sent_bytes)

    def text(self) -> bytes:
        return generate_latest(self.registry)
