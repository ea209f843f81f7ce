"""A model served by a child process of ours that speaks llama-server's HTTP dialect: start it, know it, end it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from chorus_client.engines.base import Ending, LoadProgress, Report
from chorus_client.engines.one_call import one_call
from chorus_client.engines.openai_http import HttpLimits, OpenAiHttp
from chorus_client.engines.quiet import QUIET_WITHIN_S, QuietCheck
from chorus_client.footprint import Resident
from chorus_client.process import STOP_GRACE_S, ChildProcess
from chorus_proto.errors import (
    ClusterError,
    EngineDied,
    EngineFailed,
    EngineUnavailable,
    InsufficientMemory,
    LoadFailed,
    UnsupportedParameter,
)
from chorus_proto.generation import Delta, Generation, Piece, PieceBatches
from chorus_proto.ids import ModelName

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeLimits:
    """How long a child process may keep us waiting."""

    load_s: float = 300.0
    load_s_per_gib: float = 20.0
    load_cap_s: float = 6 * 3600.0
    stall_s: float = 120.0
    """A load that printed nothing and grew by nothing for this long is given up."""
    stop_grace_s: float = STOP_GRACE_S
    quiet_s: float = QUIET_WITHIN_S
    """After a cancelled answer; an engine that goes on for longer is ended."""
    http: HttpLimits = field(default_factory=HttpLimits)

    def load_limit_s(self, file_bytes: int) -> float:
        return min(self.load_s + self.load_s_per_gib * file_bytes / 2**30, self.load_cap_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOrder:
    """What to start. `command` makes the argv for a port and a file that holds the API key."""

    command: Callable[[int, Path], Sequence[str]]
    python_child: bool
    model: ModelName
    alias: str
    """The name under which the process must serve the model."""
    file_bytes: int
    slots: int
    context_tokens: int
    ranks: bool = False
    """The model ranks documents, and makes no vectors that mean anything."""
    tools: bool = False
    """The model knows tools; else a request that brings some is refused, because no engine here does that itself."""


_PORT_ATTEMPTS = 3
_FIRST_PAUSE_S, _LAST_PAUSE_S = 0.003, 0.5
_IMPATIENT_S = 0.4
"""For so long an engine is only asked whether it is ready; then its progress is measured too."""
_OUT_OF_MEMORY_WORDS = (
    "out of memory",
    "bad_alloc",
    "failed to allocate",
    "unable to allocate",
    "cannot allocate memory",
    "cudamalloc failed",
    "memoryerror",
    "insufficient memory",
)
_KILLED_CODE = 137
"""How a shell tells that its program was killed; a signal without a shell is `ended_for_memory`."""
_PORT_WORDS = ("cannot listen on", "couldn't bind", "address already in use", "failed to bind")


async def serve(order: ServeOrder, report: Report, limits: ServeLimits) -> ServedModel:
    """Start the process and wait until it answers. Raises LoadFailed, InsufficientMemory or EngineUnavailable."""
    for attempt in range(1, _PORT_ATTEMPTS + 1):
        try:
            return await _serve_once(order, report, limits)
        except _PortTaken as error:
            # Between our choice of a free port and the child's bind another program may take it.
            log.info("loading %s: %s, attempt %s", order.model, error, attempt)
    raise LoadFailed(f"{order.model}: no free port could be kept in {_PORT_ATTEMPTS} attempts")


class _PortTaken(Exception):
    pass


async def _serve_once(order: ServeOrder, report: Report, limits: ServeLimits) -> ServedModel:
    api_key = secrets.token_urlsafe(32)
    port = _free_port()
    # A folder that cannot be removed (Windows, while a virus scanner reads in it) must not cost an engine that runs.
    with tempfile.TemporaryDirectory(prefix="chorus-engine-", ignore_cleanup_errors=True) as folder:
        key_file = _write_secret(Path(folder, "key"), api_key)
        try:
            child = await ChildProcess.start(order.command(port, key_file), python_child=order.python_child)
        except OSError as error:
            raise EngineUnavailable(f"the engine cannot be started: {error}") from None
        http = OpenAiHttp(
            f"http://127.0.0.1:{port}",
            api_key=api_key,
            keep_alive=False,
            limits=limits.http,
            tell_progress=True,
            ranks=order.ranks,
        )
        try:
            await _until_healthy(order, child, http, report, limits)
            slots, context_tokens = await _identity(order, http)
        except BaseException:
            await http.aclose()
            await child.stop(grace_s=limits.stop_grace_s)
            raise
    report(LoadProgress(share=1.0, detail="ready"))
    return ServedModel(order, child, http, limits=limits, slots=slots, context_tokens=context_tokens)


def _write_secret(path: Path, secret: str) -> Path:
    path.touch(mode=0o600)
    path.write_text(secret + "\n", "utf-8")
    return path


async def _until_healthy(
    order: ServeOrder, child: ChildProcess, http: OpenAiHttp, report: Report, limits: ServeLimits
) -> None:
    loop = asyncio.get_running_loop()
    started = moved = loop.time()
    limit_s = limits.load_limit_s(order.file_bytes)
    seen = (0, 0)
    pause_s = _FIRST_PAUSE_S
    while True:
        if child.returncode is not None:
            await child.wait()  # for its last words
            raise _load_failure(order, child)
        with contextlib.suppress(EngineUnavailable):
            status, _ = await http.get("/health")
            if status == 200 and child.returncode is None:
                return
        now = loop.time()
        if now - started < _IMPATIENT_S:
            await _ended_or_waited(child, pause_s)
            continue
        held = await asyncio.to_thread(child.resident)
        resident = 0 if held is None else held.total_bytes
        progress = (child.output.bytes_seen, max(resident, seen[1]))
        if progress != seen:
            seen, moved = progress, now
        if now - started > limit_s:
            raise LoadFailed(f"{order.model} was not loaded within {limit_s:g} s{_last_words(child)}")
        if now - moved > limits.stall_s:
            raise LoadFailed(f"loading {order.model} stood still for {limits.stall_s:g} s{_last_words(child)}")
        share = min(0.99, resident / order.file_bytes) if order.file_bytes else None
        detail = f"loading {order.model}: {resident / 2**20:.0f} MiB resident"
        report(LoadProgress(share=share, detail=detail, resident=held))
        await _ended_or_waited(child, pause_s)
        pause_s = min(pause_s * 1.5, _LAST_PAUSE_S)


async def _ended_or_waited(child: ChildProcess, pause_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(pause_s):
            await child.wait()


def _load_failure(order: ServeOrder, child: ChildProcess) -> Exception:
    code = child.returncode
    lines = child.output.lines()
    text = "\n".join(lines).lower()
    if any(words in text for words in _PORT_WORDS):
        return _PortTaken("the port was taken")
    log.warning("engine for %s exited with code %s:\n%s", order.model, code, "\n".join(lines))
    if _ran_out_of_memory(child):
        return InsufficientMemory(
            f"{order.model} ({order.file_bytes / 2**20:.0f} MiB on disk, {order.slots} x {order.context_tokens} tokens "
            f"of context) did not fit into memory: the engine ended with code {code}{_last_words(child)}"
        )
    return LoadFailed(f"{order.model} could not be loaded: the engine ended with code {code}{_last_words(child)}")


def _ran_out_of_memory(child: ChildProcess) -> bool:
    text = "\n".join(child.output.lines()).lower()
    said = any(words in text for words in _OUT_OF_MEMORY_WORDS)
    return said or child.returncode == _KILLED_CODE or child.ended_for_memory


def _last_words(child: ChildProcess) -> str:
    lines = child.output.lines()[-3:]
    return f"; its last words: {' | '.join(line[:200] for line in lines)}" if lines else ""


class _ModelRow(msgspec.Struct):
    id: str = ""


class _ModelList(msgspec.Struct):
    data: list[_ModelRow] = []


class _Settings(msgspec.Struct):
    n_ctx: int = 0


class _Props(msgspec.Struct):
    default_generation_settings: _Settings = msgspec.field(default_factory=_Settings)
    total_slots: int = 0


async def _identity(order: ServeOrder, http: OpenAiHttp) -> tuple[int, int]:
    """Slots and context tokens per slot as the process tells them. Raises LoadFailed when it is not our model.

    /health answers without a key, so a stranger on our port would pass it; these questions need the key.
    """
    status, body = await http.get("/v1/models")
    if status in (401, 403):
        raise _PortTaken("another program answers on the port")
    try:
        names = [row.id for row in msgspec.json.decode(body, type=_ModelList).data]
    except msgspec.DecodeError:
        names = []
    if status != 200 or order.alias not in names:
        raise LoadFailed(f"{order.model}: the engine says it is healthy, but serves {names or 'nothing'}")
    status, body = await http.get("/props")
    props = _Props()
    if status == 200:
        with contextlib.suppress(msgspec.DecodeError):
            props = msgspec.json.decode(body, type=_Props)
    return (
        props.total_slots or order.slots,
        props.default_generation_settings.n_ctx or order.context_tokens,
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class ServedModel:
    """A loaded model in its own process (`LoadedModel`)."""

    def __init__(
        self,
        order: ServeOrder,
        child: ChildProcess,
        http: OpenAiHttp,
        *,
        limits: ServeLimits,
        slots: int,
        context_tokens: int,
    ) -> None:
        self._order = order
        self._child = child
        self._http = http
        self._limits = limits
        self._slots = slots
        self._context_tokens = context_tokens
        self._quiet = QuietCheck(self._slots_shown_busy, self._end_busy, within_s=limits.quiet_s)
        self._unloading = asyncio.Lock()
        self._unloaded = False
        self._ended_because = ""

    @property
    def slots(self) -> int:
        return self._slots

    @property
    def context_tokens(self) -> int:
        return self._context_tokens

    @property
    def pid(self) -> int:
        return self._child.pid

    async def busy_slots(self) -> int:
        """Slots that the engine itself calls busy. Raises EngineUnavailable."""
        busy = await self._slots_shown_busy()
        if busy is None:
            raise EngineUnavailable("the engine does not show its slots")
        return busy

    async def _slots_shown_busy(self) -> int | None:
        """None when this engine shows no slots. Raises EngineUnavailable when it does not answer."""
        status, body = await self._http.get("/slots")
        if status != 200:
            return None
        try:
            return sum(slot.is_processing for slot in msgspec.json.decode(body, type=list[_Slot]))
        except msgspec.DecodeError:
            return None

    def _end_busy(self, reason: str) -> None:
        if self._child.returncode is None and not self._unloaded:
            self._ended_because = f"{self._order.model} was ended: {reason}{_last_words(self._child)}"
            self._child.kill()

    async def generate(self, generation: Generation) -> PieceBatches:
        if self._unloaded:
            raise EngineFailed(f"{self._order.model} was unloaded")
        if generation.tools is not None and not self._order.tools:
            raise UnsupportedParameter(f"{self._order.model} knows no tools", param="tools")
        batches = self._http.generate(generation, model=self._order.alias, expect_model=True)
        told = one_call(batches) if generation.tools and generation.parallel_tool_calls is False else batches
        last: Piece | None = None
        answering = False
        self._quiet.began()
        try:
            async for pieces in told:
                last = pieces[-1]
                yield pieces
                if not answering and any(isinstance(piece, Delta) for piece in pieces):
                    answering = True
                    self._quiet.answers()
        except (EngineFailed, EngineUnavailable) as error:
            raise await self._because_of_its_death(error) from None
        finally:
            await told.aclose()
            await batches.aclose()
            self._quiet.ended(last, answering=answering)

    async def _because_of_its_death(self, error: ClusterError) -> ClusterError:
        """A broken connection is seen a moment before the process's end; say the end when there is one."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.25):
                await self._child.wait()
        if self._child.returncode is None:
            return error
        # One that we ended ourselves did not die of what it was asked.
        return (EngineFailed if self._ended_because or self._unloaded else EngineDied)(self._epitaph())

    def _epitaph(self) -> str:
        if self._ended_because:
            return self._ended_because
        code = self._child.returncode
        return f"the engine of {self._order.model} ended with code {code}{_last_words(self._child)}"

    async def resident(self) -> Resident | None:
        """Of the process and its descendants; mapped pages of the model count while they are resident."""
        return await asyncio.to_thread(self._child.resident)

    async def wait_closed(self) -> Ending:
        await self._child.wait()
        if self._unloaded:
            return Ending(reason=f"{self._order.model} was unloaded")
        log.warning("%s; its last lines:\n%s", self._epitaph(), "\n".join(self._child.output.lines()))
        for_memory = not self._ended_because and _ran_out_of_memory(self._child)
        return Ending(reason=self._epitaph(), for_memory=for_memory)

    async def unload(self, *, force: bool = False) -> None:
        async with self._unloading:
            if not self._unloaded:
                self._unloaded = True
                await self._quiet.aclose()
                await self._http.aclose()
                if force:
                    self._child.kill()
                await self._child.stop(grace_s=self._limits.stop_grace_s)


class _Slot(msgspec.Struct):
    is_processing: bool = False
