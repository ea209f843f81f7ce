"""Keeps one local server running: starts it, waits until it answers, starts it again when it crashes.

Used by the agent for its own servers and by the keeper process behind `chorus server start`. The server dies with the
process that supervises it, however that ends (`chorus_client.lifeline`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from filelock import FileLock

from chorus_client.engines.openai_http import OpenAiHttp
from chorus_client.engines.served_process import ServeLimits
from chorus_client.footprint import Resident
from chorus_client.local_servers.listener import listener_on
from chorus_client.local_servers.plan import Plan
from chorus_client.local_servers.probe import facts_of
from chorus_client.local_servers.records import Identity, Phase, Records, ServerRecord
from chorus_client.process import ChildProcess
from chorus_client.restarts import NextStart, RestartRules, Restarts
from chorus_client.supervisor import LifeEnd, Supervisor
from chorus_proto.clock import Clock
from chorus_proto.errors import EngineFailed, LoadFailed

log = logging.getLogger(__name__)

_FIRST_LOOK_S = 0.03
_LAST_LINES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepLimits:
    """In a crash loop the server is given up: whoever wants it starts it again."""

    serve: ServeLimits = field(default_factory=ServeLimits)
    restarts: RestartRules = field(default_factory=RestartRules)


class KeptServer:
    """One server from `start` to `stop`. `api_key` None: anybody on this PC may ask it."""

    def __init__(
        self,
        plan: Plan,
        config: Path,
        records: Records,
        clock: Clock,
        *,
        api_key: str | None,
        in_agent: bool,
        limits: KeepLimits | None = None,
    ) -> None:
        self._plan = plan
        self._records = records
        self._clock = clock
        self._api_key = api_key
        self._limits = limits or KeepLimits()
        server = plan.server
        keeper = Identity.of(os.getpid())
        assert keeper is not None, "this process runs"
        self._record = ServerRecord(
            name=server.name,
            config=str(config.resolve()),
            host=server.server_host,
            port=server.server_port,
            keeper=keeper,
            in_agent=in_agent,
            phase=Phase.STARTING,
        )
        self._child: ChildProcess | None = None
        self._lock: FileLock | None = None
        self._task: asyncio.Task[None] | None = None
        self._moved = asyncio.Event()
        self._life: asyncio.Future[str] | None = None
        self._ran_once = False

    @property
    def phase(self) -> Phase:
        return self._record.phase

    @property
    def restarts(self) -> int:
        return self._record.restarts

    @property
    def pid(self) -> int | None:
        return None if self._child is None else self._child.pid

    @property
    def life(self) -> asyncio.Future[str]:
        """Of the server that is ready now: done with the reason once it is gone. Raises LoadFailed when none is."""
        if self._life is None:
            raise LoadFailed(f"{self._record.name} is {self.phase}")
        return self._life

    def resident(self) -> Resident | None:
        """Blocks for some milliseconds."""
        return None if self._child is None else self._child.resident()

    def start(self) -> bool:
        """Begin; False when another process keeps a server on this port. Raises LoadFailed (state folder)."""
        try:
            self._lock = self._records.lock(self._record.port)
        except OSError as error:
            raise LoadFailed(f"the state folder cannot be written: {error}") from None
        if self._lock is None:
            return False
        self._task = asyncio.create_task(self._run(), name=f"server:{self._record.name}")
        return True

    async def until_ready(self) -> None:
        """Wait until the server answers, also after a crash. Raises LoadFailed once it is given up."""
        while self.phase is not Phase.READY:
            if self.phase is Phase.FAILED:
                raise LoadFailed(self._record.detail)
            await self._moved.wait()

    async def until_given_up(self) -> str:
        """Wait until it will not be started again; why."""
        while self.phase is not Phase.FAILED:
            await self._moved.wait()
        return self._record.detail

    async def stop(self) -> None:
        """End the server and forget it. A second call does nothing."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        if self.phase is not Phase.FAILED:
            await asyncio.to_thread(self._records.forget, self._record)
            self._move(phase=Phase.FAILED, detail=f"{self._record.name} was stopped", keep=False)
        self._let_go()

    def _let_go(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    async def _run(self) -> None:
        supervisor: Supervisor[LifeEnd] = Supervisor(Restarts(self._limits.restarts), self._clock, probes=False)
        try:
            given_up = await supervisor.run(lambda: self._one_life(supervisor), self._pause)
            detail = given_up.end.error.message
            if given_up.crash_loop:
                detail += f"; given up after {given_up.crashes} crashes"
            log.error("%s", detail)
        except Exception as error:
            # The supervisor's edge: whatever went wrong, callers of `until_ready` must hear of it.
            log.exception("keeping %s failed", self._record.name)
            detail = f"keeping {self._record.name} failed: {error}"
        self._move(phase=Phase.FAILED, detail=detail, engine=None)
        self._let_go()

    def _pause(self, end: LifeEnd, following: NextStart) -> None:
        log.warning("%s; started again in %.1f s", end.error.message, following.after_s)
        self._move(phase=Phase.RESTARTING, detail=end.error.message, engine=None, restarts=self.restarts + 1)

    async def _one_life(self, supervisor: Supervisor[LifeEnd]) -> LifeEnd:
        """From start to crash."""
        try:
            return LifeEnd(error=EngineFailed(await self._served(supervisor)))
        except LoadFailed as error:
            # What never ran once will not run a second time.
            return LifeEnd(error=error, final=not self._ran_once, counts=self._ran_once)

    async def _served(self, supervisor: Supervisor[LifeEnd]) -> str:
        """The reason of the crash. Raises LoadFailed when it never got ready."""
        # What a virus scanner holds open on Windows must not end the keeping of the server.
        with tempfile.TemporaryDirectory(prefix="chorus-server-", ignore_cleanup_errors=True) as folder:
            key_file = None if self._api_key is None else _write_secret(Path(folder, "key"), self._api_key)
            child = await self._started(key_file)
            self._child = child
            try:
                await self._until_it_answers(child)
                self._ran_once = True
                supervisor.came_up()
                self._life = asyncio.get_running_loop().create_future()
                self._move(
                    phase=Phase.READY,
                    detail="",
                    engine=Identity.of(child.pid),
                    started_unix_s=self._clock.unix_s(),
                )
                log.info("the server %s answers on port %d", self._record.name, self._record.port)
                await child.wait()
                return self._epitaph(child)
            finally:
                if self._life is not None and not self._life.done():
                    self._life.set_result(self._epitaph(child))
                self._life = None
                self._child = None
                await child.stop(grace_s=self._limits.serve.stop_grace_s)

    async def _started(self, key_file: Path | None) -> ChildProcess:
        other = await asyncio.to_thread(listener_on, self._record.host, self._record.port)
        if other is not None:
            raise LoadFailed(
                f"{self._record.name}: port {self._record.port} is taken by {other.words}; choose another server_port"
            )
        self._move()
        try:
            return await ChildProcess.start(self._plan.command(key_file), python_child=self._plan.program is None)
        except OSError as error:
            raise LoadFailed(f"{self._record.name} cannot be started: {error}") from None

    async def _until_it_answers(self, child: ChildProcess) -> None:
        server = self._plan.server
        limit_s = self._limits.serve.load_limit_s(self._plan.file_bytes)
        http = OpenAiHttp(server.base_url, api_key=self._api_key, keep_alive=False, limits=self._limits.serve.http)
        pause_s = _FIRST_LOOK_S
        try:
            async with asyncio.timeout(limit_s):
                while True:
                    if child.returncode is not None:
                        await child.wait()  # for its last words
                        raise LoadFailed(self._epitaph(child))
                    facts = await facts_of(http)
                    if facts is not None and server.name in facts.models and child.returncode is None:
                        return
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(pause_s):
                            await child.wait()
                    pause_s = min(1.5 * pause_s, server.healthcheck_interval_s)
        except TimeoutError:
            raise LoadFailed(f"{server.name} did not answer within {limit_s:g} s{_last_words(child)}") from None
        finally:
            await http.aclose()

    def _epitaph(self, child: ChildProcess) -> str:
        if child.returncode is None:
            return f"the server {self._record.name} was stopped"
        return f"the server {self._record.name} ended with code {child.returncode}{_last_words(child)}"

    def _move(self, *, keep: bool = True, **changes: object) -> None:
        """Change the record, on disk too when `keep`, and wake those who wait."""
        self._record = msgspec.structs.replace(self._record, **changes)
        if keep:
            try:
                self._records.write(self._record)
            except OSError as error:
                log.error("the record of %s cannot be written: %s", self._record.name, error)
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()


def _write_secret(path: Path, secret: str) -> Path:
    path.touch(mode=0o600)
    path.write_text(secret + "\n", "utf-8")
    return path


def _last_words(child: ChildProcess) -> str:
    lines = child.output.lines()[-_LAST_LINES:]
    return f"; its last words: {' | '.join(line[:200] for line in lines)}" if lines else ""
