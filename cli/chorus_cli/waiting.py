"""A line that says what a person waits for, until the first word comes: a place in the queue, a model that loads."""

from __future__ import annotations

import asyncio
import contextlib
import itertools

from chorus_proto.clock import Clock, SystemClock
from chorus_proto.cluster import Cluster
from chorus_proto.errors import ClusterError
from chorus_proto.ids import ModelName
from chorus_proto.logs import escaped
from chorus_proto.values import ClusterState, ReplicaState
from chorus_server.console import Write

SILENT_S = 0.7
"""Answers that come sooner need no such line."""
EVERY_S = 0.5
_CLEAR = "\r\x1b[K"
_TURNING = "|/-\\"


class Waiting:
    """`begin` it, and `end` it when there is something better to read; both may be called twice."""

    def __init__(self, cluster: Cluster, model: ModelName, write: Write, clock: Clock | None = None) -> None:
        self._cluster = cluster
        self._model = model
        self._write = write
        self._clock = clock or SystemClock()
        self._task: asyncio.Task[None] | None = None
        self._shown = False

    def begin(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._show(), name="waiting line")

    async def end(self) -> None:
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._task = None
        if self._shown:
            self._write(_CLEAR)
            self._shown = False

    async def _show(self) -> None:
        began_s = self._clock.monotonic_s()
        await asyncio.sleep(SILENT_S)
        for turn in itertools.count():
            words = "waiting"
            # The coordinator may be away for a moment; the answer itself will say so.
            with contextlib.suppress(ClusterError):
                words = what_is_waited_for(await self._cluster.state(), self._model)
            spent_s = self._clock.monotonic_s() - began_s
            self._write(f"{_CLEAR}{_TURNING[turn % len(_TURNING)]} {escaped(words)}, {spent_s:.0f} s")
            self._shown = True
            await asyncio.sleep(EVERY_S)


def what_is_waited_for(state: ClusterState, model: ModelName) -> str:
    """`demo-small loads on attic, 40%`, `3 requests wait for a slot`, `attic reads the question`. Pure."""
    replicas = [(node.name, one) for node in state.nodes for one in node.replicas if one.report.model == model]
    for name, replica in replicas:
        report = replica.report
        if report.state is ReplicaState.LOADING:
            share = "" if report.progress is None else f", {report.progress:.0%}"
            return f"{model} loads on {name}{share}"
    if state.waiting:
        return f"{state.waiting} {'request waits' if state.waiting == 1 else 'requests wait'} for a slot"
    busy = [name for name, replica in replicas if replica.slots_busy]
    return f"{', '.join(busy)} reads the question" if len(busy) == 1 else "waiting for the first word"
