"""One backend as a node: it joins while its server is well, leaves while it is not, rests when it fails too often."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from chorus_client.agent import Agent, Identity
from chorus_client.backends.addresses import require_allowed
from chorus_client.backends.engine import BackendEngine
from chorus_client.backends.outliers import OutlierRules, Outliers
from chorus_client.engines.base import LoadOptions
from chorus_client.engines.openai_http import HttpLimits
from chorus_client.engines.remote import RemoteEngine
from chorus_client.hardware import LiveReadings
from chorus_client.idle_probe import ProbeLimits
from chorus_client.link import CoordinatorLink
from chorus_client.membership import Door, open_door
from chorus_client.memory_gate import MemoryGate
from chorus_client.pool import Pool, PoolRules
from chorus_client.preflight import Reserve
from chorus_client.transfer.checked_resolver import CheckedResolver
from chorus_proto.backends import MODELS_LIMIT, BackendHealth, BackendState, RegisteredBackend
from chorus_proto.clock import Clock
from chorus_proto.errors import ClusterError, EngineFailed
from chorus_proto.generation import Generation, Message
from chorus_proto.ids import ModelName, new_instance_id
from chorus_proto.sizing import DeviceKind
from chorus_proto.values import ALL_OURS, Courtesy, EngineKind, Hardware, ReplicaReport, ReplicaState

log = logging.getLogger(__name__)

MISSES_LIMIT = 2
"""One unanswered probe may be a moment of load."""
AGAIN_S = 1.0
"""After a first miss; and the first pause of a server that is away, twice as long each time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendRules:
    """`health_interval_s`: between two probes of a server that is well. `slots`: where a backend does not say.

    `hosts`: those that may lie in a network of our own, as HOST or HOST:PORT; all others must be on the internet.
    """

    hosts: frozenset[str] = frozenset()
    health_interval_s: float = 30.0
    slots: int = 8
    drain_s: float = 30.0
    try_within_s: float = 30.0
    http: HttpLimits = field(default_factory=HttpLimits)
    outliers: OutlierRules = field(default_factory=OutlierRules)


class _NoReadings:
    """What is free on a PC that we only know the address of."""

    async def read(self) -> LiveReadings:
        return LiveReadings()


class BackendNode:
    """Runs from `run`'s begin to its end. `join`: HOST:PORT of the coordinator."""

    def __init__(
        self,
        backend: RegisteredBackend,
        *,
        join: str,
        folder: Path,
        clock: Clock,
        rules: BackendRules,
        door: Door = open_door,
    ) -> None:
        self._door = door
        self._backend = backend
        self._name = backend.wish.name
        self._join = join
        self._folder = folder
        self._clock = clock
        self._rules = rules
        self._outliers = Outliers(clock, rules.outliers)
        self._doubt = asyncio.Event()
        self._leaving = asyncio.Event()
        self._probed_at_s: float | None = None
        self._state = BackendState.STARTING
        self._detail = ""
        self._models: tuple[ModelName, ...] = ()

    @property
    def health(self) -> BackendHealth:
        age_s = None if self._probed_at_s is None else self._clock.monotonic_s() - self._probed_at_s
        return BackendHealth(state=self._state, detail=self._detail, models=self._models, probe_age_s=age_s)

    def leave(self) -> None:
        """Let `run` finish what runs, say goodbye and return."""
        self._leaving.set()

    async def run(self) -> None:
        """Until `leave`. Raises Refused when the coordinator will not have the node."""
        pause_s = AGAIN_S
        while not self._leaving.is_set():
            engine = self._engine()
            try:
                await self._probe(engine)
                pause_s = AGAIN_S
                self._become(BackendState.HEALTHY)
                await self._serve(engine)
            except ClusterError as error:
                self._become(BackendState.UNHEALTHY, error.message)
            finally:
                await engine.aclose()
            await self._left_within(pause_s)
            pause_s = min(2 * pause_s, self._rules.health_interval_s)

    def _engine(self) -> BackendEngine:
        wish = self._backend.wish
        remote = RemoteEngine(
            wish.url,
            api_key=wish.api_key or None,
            slots=wish.slots or self._rules.slots,
            limits=self._rules.http,
            resolver=CheckedResolver(self._rules.hosts),
        )
        return BackendEngine(remote, wish.models, self._answered)

    async def _probe(self, engine: BackendEngine) -> None:
        """Raises EngineUnavailable, AddressNotAllowed."""
        require_allowed(self._backend.wish.url, self._rules.hosts)
        try:
            files = await engine.inventory()
        finally:
            self._probed_at_s = self._clock.monotonic_s()
        if len(files) > MODELS_LIMIT:
            log.warning("backend %s has %d models, too many: name %d of them", self._name, len(files), MODELS_LIMIT)
        self._models = tuple(file.name for file in files[:MODELS_LIMIT])

    async def _serve(self, engine: BackendEngine) -> None:
        """Be a node while the server is well. Raises the ClusterError that says why it no longer is."""
        telling: list[Callable[[ReplicaReport], None]] = []
        pool = self._pool(engine, lambda report: [listener(report) for listener in telling])
        hardware = Hardware(os="", arch="", cpu_model=f"backend at {urlsplit(self._backend.wish.url).netloc}")
        agent = Agent(
            Identity(node_id=self._backend.node_id, instance_id=new_instance_id(), name=self._name),
            hardware,
            pool,
            self._clock,
            readings=_NoReadings(),
            fenced=lambda: link.fenced,
        )
        link = CoordinatorLink(
            self._join,
            agent,
            self._clock,
            connect_within_s=3.0,
            reconnect_max_s=2.0,
            fence_after_s=30.0,
            door=self._door,
        )
        telling.append(agent.replica_changed)
        await agent.prepare((EngineKind.REMOTE,))
        self._adopt(pool)
        tasks = [
            asyncio.create_task(link.run(), name=f"backend-link:{self._name}"),
            asyncio.create_task(pool.run(), name=f"backend-pool:{self._name}"),
        ]
        watching = asyncio.create_task(self._watch(engine, agent, pool), name=f"backend-watch:{self._name}")
        try:
            await asyncio.wait((tasks[0], watching), return_when=asyncio.FIRST_COMPLETED)
            if tasks[0].done():
                tasks[0].result()
            if self._leaving.is_set():
                await agent.drain(self._rules.drain_s)
            await link.say_goodbye(self._detail or "the backend leaves")
            watching.result()
        finally:
            for task in (*tasks, watching):
                task.cancel()
            await asyncio.gather(*tasks, watching, return_exceptions=True)
            await agent.aclose()
            await pool.aclose()

    def _pool(self, engine: BackendEngine, tell: Callable[[ReplicaReport], object]) -> Pool:
        def told(report: ReplicaReport) -> None:
            tell(report)

        # Nothing that is loaded there takes memory here, so the gate has nothing to judge.
        gate = MemoryGate(Hardware(os="", arch=""), _NoReadings(), DeviceKind.CPU, self._folder, reserve=Reserve())
        # An idle server may cost its owner money: it is asked for tokens only when it is under suspicion.
        rules = PoolRules(probe=ProbeLimits(every_s=0))
        return Pool({EngineKind.REMOTE: engine}, self._clock, told, gate, rules=rules)

    def _adopt(self, pool: Pool) -> None:
        known = {report.model for report in pool.reports() if report.state is not ReplicaState.FAILED}
        for model in self._models:
            if model not in known:
                pool.load(model, LoadOptions(), adopted=True)
        for model in known - set(self._models):
            pool.unload(model, drain_s=self._rules.drain_s)

    async def _watch(self, engine: BackendEngine, agent: Agent, pool: Pool) -> None:
        """Until `leave`. Raises the ClusterError of the last probe once the server is away."""
        misses = 0
        while True:
            await self._until_looked_at(AGAIN_S if misses else self._rules.health_interval_s)
            if self._leaving.is_set():
                return
            before = self._models
            try:
                await self._probe(engine)
                misses = 0
            except ClusterError as error:
                misses += 1
                self._detail = error.message
                if misses >= MISSES_LIMIT:
                    raise
                continue
            if self._models != before:
                await agent.inventory_changed()
            if self._outliers.suspect:
                await self._judge(engine, agent)
            self._become(BackendState.HEALTHY)
            self._adopt(pool)

    async def _judge(self, engine: BackendEngine, agent: Agent) -> None:
        """Return once a token comes out of it again; until then it gets no work."""
        failures = self._outliers.failures_in_a_row
        while (error := await self._fault(engine)) is not None and not self._leaving.is_set():
            rest_s = self._outliers.eject()
            words = f"ejected for {rest_s:g} s: {error.message}"
            log.warning("backend %s is %s (%d failures in a row)", self._name, words, failures)
            self._become(BackendState.EJECTED, words)
            agent.be_polite(Courtesy(paused=True, reason=words))
            await self._left_within(rest_s)
        self._outliers.acquit()
        agent.be_polite(ALL_OURS)

    async def _fault(self, engine: BackendEngine) -> ClusterError | None:
        """What a generation of one token fails with; None when it does not."""
        if not self._models:
            return None
        prompt = Generation(messages=(Message(role="user", content="Hi"),), max_tokens=1)
        try:
            async with asyncio.timeout(self._rules.try_within_s):
                async with aclosing(await engine.tried(self._models[0], prompt)) as pieces:
                    async for _ in pieces:
                        pass
        except TimeoutError:
            return EngineFailed(f"no answer within {self._rules.try_within_s:g} s")
        except ClusterError as error:
            return error
        return None

    def _answered(self, good: bool) -> None:
        self._outliers.answered(good=good)
        if not good and self._outliers.suspect:
            self._doubt.set()

    async def _until_looked_at(self, within_s: float) -> None:
        """Return when the next probe is due: in time, or because something went wrong or ends."""
        waits = [asyncio.create_task(event.wait()) for event in (self._doubt, self._leaving)]
        try:
            await asyncio.wait(waits, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        self._doubt.clear()

    async def _left_within(self, within_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._leaving.wait()

    def _become(self, state: BackendState, detail: str = "") -> None:
        if (state, detail) != (self._state, self._detail):
            log.info("backend %s: %s %s", self._name, state, detail)
        self._state, self._detail = state, detail
