"""The coordinator's figures for Prometheus: counters grow where things happen, gauges are read at scrape time."""

from __future__ import annotations

from collections import Counter as Counting
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from chorus_proto.errors import ErrorCode
from chorus_proto.values import ClusterState, NodeState

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Series:
    """What a finished request of one model on one node counts in; to look them up anew costs more than to count."""

    finished: Counter
    prompt: Counter
    completion: Counter
    ttft: Histogram
    duration: Histogram


class Counters:
    """What has happened since the start."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.finished_total = 0
        self.failed_total = 0
        self.cancelled_total = 0
        self._requests = Counter(
            "chorus_requests_total", "Requests by how they ended", ["outcome", "code"], registry=self.registry
        )
        self._retries = Counter(
            "chorus_retries_total",
            "Attempts that moved to another replica before their first token",
            registry=self.registry,
        )
        self._demanded = Counter(
            "chorus_demanded_loads_total",
            "Loads ordered because requests waited for the model",
            ["node", "model"],
            registry=self.registry,
        )
        self._tokens = Counter(
            "chorus_tokens_total", "Tokens read and written", ["node", "model", "kind"], registry=self.registry
        )
        self._series: dict[tuple[str, str], _Series] = {}
        self._ttft = Histogram(
            "chorus_node_ttft_seconds",
            "Time to the first token, on the node",
            ["model"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._duration = Histogram(
            "chorus_node_duration_seconds",
            "Time to the last token, on the node",
            ["model"],
            buckets=_SECONDS,
            registry=self.registry,
        )

    def finished(
        self, node: str, model: str, *, prompt_tokens: int, completion_tokens: int, duration_s: float, ttft_s: float
    ) -> None:
        self.finished_total += 1
        series = self._series.get((node, model))
        if series is None:
            series = self._series[node, model] = self._series_of(node, model)
        series.finished.inc()
        series.prompt.inc(prompt_tokens)
        series.completion.inc(completion_tokens)
        series.ttft.observe(ttft_s)
        series.duration.observe(duration_s)

    def _series_of(self, node: str, model: str) -> _Series:
        return _Series(
            finished=self._requests.labels("finished", ""),
            prompt=self._tokens.labels(node, model, "prompt"),
            completion=self._tokens.labels(node, model, "completion"),
            ttft=self._ttft.labels(model),
            duration=self._duration.labels(model),
        )

    def failed(self, code: ErrorCode) -> None:
        self.failed_total += 1
        self._requests.labels("failed", code).inc()

    def cancelled(self) -> None:
        self.cancelled_total += 1
        self._requests.labels("cancelled", "").inc()

    def retried(self) -> None:
        self._retries.inc()

    def demanded(self, node: str, model: str) -> None:
        self._demanded.labels(node, model).inc()


class StateCollector(Collector):
    """Gauges of the cluster as it is now."""

    def __init__(self, state: Callable[[], ClusterState]) -> None:
        self._state = state

    def collect(self) -> Iterable[GaugeMetricFamily]:
        state = self._state()
        yield GaugeMetricFamily("chorus_requests_waiting", "Requests without a slot", value=state.waiting)
        yield GaugeMetricFamily("chorus_requests_running", "Requests on a node", value=state.running)
        yield GaugeMetricFamily("chorus_epoch", "Start count of this coordinator", value=state.epoch)
        nodes = GaugeMetricFamily("chorus_node_up", "1 while the node is alive", labels=["node", "state"])
        scores = GaugeMetricFamily("chorus_node_score", "Score of the node, 0-100", labels=["node"])
        beats = GaugeMetricFamily("chorus_node_heartbeat_age_seconds", "Since the last heartbeat", labels=["node"])
        busy = GaugeMetricFamily("chorus_replica_slots_busy", "Slots given away", labels=["node", "model"])
        slots = GaugeMetricFamily("chorus_replica_slots", "Slots of the replica", labels=["node", "model", "state"])
        resident = GaugeMetricFamily("chorus_replica_resident_bytes", "Measured memory", labels=["node", "model"])
        names = Counting(node.name for node in state.nodes)
        for node in state.nodes:
            # A name may come twice, a series must not.
            name = node.name if names[node.name] == 1 else node.client_id
            nodes.add_metric([name, node.state], 1.0 if node.state is NodeState.ALIVE else 0.0)
            scores.add_metric([name], node.score.score)
            beats.add_metric([name], node.heartbeat_age_s)
            for replica in node.replicas:
                report = replica.report
                busy.add_metric([name, report.model], replica.slots_busy)
                slots.add_metric([name, report.model, report.state], report.slots)
                if report.resident_bytes is not None:
                    resident.add_metric([name, report.model], report.resident_bytes)
        yield from (nodes, scores, beats, busy, slots, resident)


def exposition(counters: Counters) -> bytes:
    return generate_latest(counters.registry)
