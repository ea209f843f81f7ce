"""What an agent does with the coordinator's orders: loads models, runs generations, renders answers, reports."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import msgspec

from chorus_client.answer_writer import AnswerWriter
from chorus_client.engines.base import LoadOptions
from chorus_client.link import Uplink
from chorus_client.memory_gate import Readings
from chorus_client.orders import ExecuteOrder, FetchOrder, LoadOrder, SendOrder, UnloadOrder
from chorus_client.pool import Pool
from chorus_client.thinking.separated import separation
from chorus_proto import PROTOCOL_MAX, PROTOCOL_MIN, __version__
from chorus_proto.clock import Clock
from chorus_proto.dialects.answers import Renderer, renderer
from chorus_proto.errors import (
    ClusterError,
    DeadlineExceeded,
    EngineFailed,
    ErrorCode,
    InternalError,
    InvalidRequest,
    NodeLost,
    Unsupported,
)
from chorus_proto.frames import StreamClosed, Window
from chorus_proto.generation import Done, Generation
from chorus_proto.ids import InstanceId, ModelName, NodeId
from chorus_proto.transfers import FEATURE, FOLDER_FEATURE, FetchReport
from chorus_proto.values import (
    ALL_OURS,
    Courtesy,
    EngineKind,
    Hardware,
    Heartbeat,
    Hello,
    ModelFile,
    ReplicaReport,
    ReplicaState,
    Timings,
    Usage,
    Welcome,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who this agent is."""

    node_id: NodeId
    instance_id: InstanceId
    name: str


@dataclass(slots=True)
class _Execution:
    task: asyncio.Task[None]
    window: Window


class Fetcher(Protocol):
    """Brings models onto this disk and sends them to other nodes; `transfer.fetches.Fetches`."""

    def remove(self, model: ModelName) -> None: ...

    def fetch(self, order: FetchOrder) -> None: ...

    def send(self, order: SendOrder) -> None: ...

    def cancel(self, transfer_id: str) -> None: ...


class Agent:
    """Implements `Orders`. One instance lives as long as the process; links come and go."""

    def __init__(
        self,
        identity: Identity,
        hardware: Hardware,
        pool: Pool,
        clock: Clock,
        *,
        readings: Readings,
        fenced: Callable[[], bool],
        fetcher: Fetcher | None = None,
        mac_addresses: tuple[str, ...] = (),
    ) -> None:
        self._identity = identity
        self._hardware = hardware
        self._pool = pool
        self._clock = clock
        self._readings = readings
        self._fenced = fenced
        self._fetcher = fetcher
        self._mac_addresses = mac_addresses
        self._courtesy = ALL_OURS
        self._models: list[ModelFile] = []
        self._engines: tuple[EngineKind, ...] = ()
        self._uplink: Uplink | None = None
        self._executions: dict[int, _Execution] = {}
        self._began_s = clock.monotonic_s()
        self._tokens_total = 0
        self._introduced: set[ModelName] = set()
        self._looking: asyncio.Task[None] | None = None

    async def prepare(self, engines: tuple[EngineKind, ...]) -> None:
        """Look what can be loaded here; before the first link."""
        self._engines = engines
        self._models = await self._pool.inventory()

    # Orders -------------------------------------------------------------------------------------------------------

    def hello(self) -> Hello:
        replicas = self._pool.reports()
        self._introduced = {report.model for report in replicas}
        return Hello(
            node_id=self._identity.node_id,
            instance_id=self._identity.instance_id,
            name=self._identity.name,
            version=__version__,
            protocol_min=PROTOCOL_MIN,
            protocol_max=PROTOCOL_MAX,
            hardware=self._hardware,
            engines=self._engines,
            models=tuple(self._models),
            replicas=replicas,
            features=() if self._fetcher is None else (FEATURE, FOLDER_FEATURE),
            mac_addresses=self._mac_addresses,
            courtesy=self._courtesy,
        )

    def linked(self, uplink: Uplink, welcome: Welcome) -> None:
        log.info("linked as %s, coordinator %s, epoch %d", self._identity.name, welcome.version, welcome.epoch)
        log.info("this PC is to hold %s: %s", welcome.assigned_model or "no model", welcome.assignment_reason)
        self._uplink = uplink
        # What changed while the Hello was on its way had no link to be told on.
        uplink.courtesy(self._courtesy)
        uplink.inventory(self._models)
        loaded = self._pool.reports()
        for report in loaded:
            uplink.replica(report)
        for model in self._introduced - {report.model for report in loaded}:
            uplink.replica(ReplicaReport(model=model, state=ReplicaState.GONE))

    def unlinked(self) -> None:
        """Nobody hears the answers of this link any more: stop working on them."""
        self._uplink = None
        for execution in self._executions.values():
            execution.task.cancel()

    async def beat(self, sequence: int) -> Heartbeat:
        readings = await self._readings.read()
        return Heartbeat(
            sequence=sequence,
            uptime_s=self._clock.monotonic_s() - self._began_s,
            ram_available_bytes=readings.ram_available_bytes,
            gpu_free_bytes=readings.told_of(self._hardware.gpus),
            running=len(self._executions),
            tokens_total=self._tokens_total,
            cpu_percent=readings.cpu_percent,
        )

    def replica_changed(self, report: ReplicaReport) -> None:
        """The pool tells; without a link the next Hello says it."""
        if self._uplink is not None:
            self._uplink.replica(report)
        if report.failure_code in (ErrorCode.MODEL_DAMAGED, ErrorCode.LOAD_FAILED):
            # The inventory leaves a damaged file out from now on, and one that is gone.
            self._looking = asyncio.create_task(self.inventory_changed(), name="inventory")

    def be_polite(self, courtesy: Courtesy) -> None:
        """See `polite.Obliged`."""
        self._courtesy = courtesy
        if self._uplink is not None:
            self._uplink.courtesy(courtesy)

    def free_idle_models(self, reason: str) -> None:
        """See `polite.Obliged`."""
        self._pool.free_idle(reason)

    async def inventory_changed(self) -> None:
        """Look again what can be loaded here, and tell the coordinator when that is not what it was."""
        models = await self._pool.inventory()
        before, self._models = self._models, models
        if self._uplink is not None and _by_name(models) != _by_name(before):
            self._uplink.inventory(self._models)

    def load(self, order: LoadOrder) -> None:
        self._pool.load(
            order.model,
            LoadOptions(slots=order.slots, context_tokens=order.context_tokens),
            keep_alive_s=order.keep_alive_s,
            retry=order.retry,
        )

    def unload(self, order: UnloadOrder) -> None:
        self._pool.unload(order.model, drain_s=order.drain_s)

    def remove(self, model: ModelName) -> None:
        if self._fetcher is not None:
            self._fetcher.remove(model)

    def fetch(self, order: FetchOrder) -> None:
        if self._fetcher is not None:
            self._fetcher.fetch(order)

    def send(self, order: SendOrder) -> None:
        if self._fetcher is not None:
            self._fetcher.send(order)

    def cancel_fetch(self, transfer_id: str) -> None:
        if self._fetcher is not None:
            self._fetcher.cancel(transfer_id)

    def fetch_changed(self, report: FetchReport) -> None:
        """The fetcher tells. Without a link nobody hears it; the coordinator orders again what it still wants."""
        if self._uplink is not None:
            self._uplink.fetched(report)

    def execute(self, order: ExecuteOrder) -> None:
        uplink = self._uplink
        if uplink is None:
            return
        window = Window(order.window_bytes)
        task = asyncio.create_task(self._execute(order, uplink, window), name=f"execute:{order.request_id}")
        self._executions[order.execution_id] = _Execution(task, window)
        task.add_done_callback(partial(self._forget, order.execution_id))

    def _forget(self, execution_id: int, task: asyncio.Task[None]) -> None:
        """A coordinator that was restarted counts from 1 again: the number may be another's by now."""
        execution = self._executions.get(execution_id)
        if execution is not None and execution.task is task:
            del self._executions[execution_id]

    def cancel(self, execution_id: int) -> None:
        execution = self._executions.get(execution_id)
        if execution is not None:
            execution.task.cancel()

    def credit(self, execution_id: int, count_bytes: int) -> None:
        execution = self._executions.get(execution_id)
        if execution is not None:
            execution.window.grant(count_bytes)

    # One execution ------------------------------------------------------------------------------------------------

    async def _execute(self, order: ExecuteOrder, uplink: Uplink, window: Window) -> None:
        try:
            if self._fenced():
                raise NodeLost("the lease of this node has run out")
            async with asyncio.timeout(order.within_s):
                await self._generate(order, uplink, window)
        except ClusterError as error:
            uplink.failed(order.execution_id, error)
        except TimeoutError:
            uplink.failed(order.execution_id, DeadlineExceeded("the request's time was over on the node"))
        except StreamClosed:
            log.info("request %s: the link broke", order.request_id)
        except Exception:
            # The edge of one execution: a bug in it must end this request and nothing else.
            log.exception("request %s broke", order.request_id)
            uplink.failed(order.execution_id, InternalError("internal error on the node"))

    async def _generate(self, order: ExecuteOrder, uplink: Uplink, window: Window) -> None:
        began_s = self._clock.monotonic_s()
        first_s: float | None = None
        generation, render = _read(order)
        answer = AnswerWriter(render, separation(generation, self._file_of(order.model)))
        with self._pool.acquire(order.model) as hold:
            async with aclosing(hold.generate(generation)) as batches:
                async for pieces in batches:
                    before = answer.tokens
                    payloads = answer.written(pieces)
                    self._tokens_total += answer.tokens - before
                    first = first_s is None and answer.began
                    if first:
                        first_s = self._clock.monotonic_s()
                    for payload, tokens in payloads:
                        uplink.output(order.execution_id, payload, tokens, first=first)
                        if not window.spend(len(payload)):
                            await window.wait()
                    if isinstance(done := pieces[-1], Done):
                        timings = _timings(done, began_s, first_s, self._clock.monotonic_s())
                        *parts, last = answer.end(done, timings)
                        for payload in parts:
                            uplink.output(order.execution_id, payload, 0, first=False)
                            if not window.spend(len(payload)):
                                await window.wait()
                        uplink.finished(
                            order.execution_id,
                            done.finish_reason,
                            Usage(
                                prompt_tokens=done.prompt_tokens,
                                completion_tokens=done.completion_tokens,
                                cached_tokens=done.cached_tokens,
                            ),
                            timings,
                            last,
                        )
                        return
        raise EngineFailed("the engine ended its answer without an end")

    def _file_of(self, model: ModelName) -> ModelFile | None:
        return next((file for file in self._models if file.name == model), None)

    async def drain(self, within_s: float) -> None:
        """Take nothing new and let what runs finish, for `within_s` at the most."""
        self._pool.close_doors()
        running = [execution.task for execution in self._executions.values()]
        if running:
            log.info("%d answers may finish within %g s", len(running), within_s)
            _, cut = await asyncio.wait(running, timeout=within_s)
            if cut:
                log.warning("%d answers still ran after %g s of draining; they are cut", len(cut), within_s)

    async def aclose(self) -> None:
        tasks = [execution.task for execution in self._executions.values()]
        if self._looking is not None:
            tasks.append(self._looking)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _by_name(models: list[ModelFile]) -> dict[ModelName, ModelFile]:
    """Servers list theirs in any order."""
    return {file.name: file for file in models}


def _read(order: ExecuteOrder) -> tuple[Generation, Renderer]:
    """Raises Unsupported for a dialect and InvalidRequest for a generation that this agent does not understand."""
    if order.dialect is None:
        raise Unsupported(f"the request's dialect is unknown to this agent (Chorus {__version__}); upgrade it")
    try:
        generation = Generation.decoded(order.generation)
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"this agent (Chorus {__version__}) cannot read the request: {error}") from None
    render = renderer(
        order.dialect,
        generation,
        stream=order.stream,
        request_id=order.request_id,
        model=order.model,
        created_unix_s=order.created_unix_s,
    )
    return generation, render


def _timings(done: Done, began_s: float, first_s: float | None, now_s: float) -> Timings:
    ttft_s = (first_s if first_s is not None else now_s) - began_s
    decode_s = now_s - first_s if first_s is not None else 0.0
    decode = done.decode_tokens_per_s
    if decode is None and done.completion_tokens > 1 and decode_s > 0:
        decode = (done.completion_tokens - 1) / decode_s
    return Timings(
        ttft_s=ttft_s,
        duration_s=now_s - began_s,
        prefill_tokens_per_s=done.prefill_tokens_per_s,
        decode_tokens_per_s=decode,
    )
