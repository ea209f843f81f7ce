"""Token buckets: how many requests a minute somebody may send, all of a minute's at once if they like."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from chorus_proto.clock import Clock


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at_s: float


class Buckets:
    """One bucket for each name, the least recently used `limit` of them forgotten: a forgotten one is full again."""

    def __init__(self, clock: Clock, *, limit: int) -> None:
        self._clock = clock
        self._limit = limit
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, name: str, *, per_minute: int) -> float:
        """Take one token. Returns 0.0, or, when there is none, the seconds until there will be."""
        now_s = self._clock.monotonic_s()
        bucket = self._buckets.get(name)
        if bucket is None:
            bucket = self._buckets[name] = _Bucket(tokens=per_minute, at_s=now_s)
            if len(self._buckets) > self._limit:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(name)
            bucket.tokens = min(per_minute, bucket.tokens + (now_s - bucket.at_s) * per_minute / 60)
            bucket.at_s = now_s
        if bucket.tokens < 1:
            return (1 - bucket.tokens) * 60 / per_minute
        bucket.tokens -= 1
        return 0.0
