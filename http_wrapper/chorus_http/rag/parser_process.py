"""The parent's side of `chorus_http.rag.parse`: one limited child per batch of documents, replaced when it fails."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

import chorus_http
import chorus_proto
from chorus_http.rag.documents import Kind, Parsed
from chorus_http.rag.parse import Answer, Order
from chorus_http.rag.parsers.outcome import ParseLimits, Refusal, Refused
from chorus_http.rag.windows_limits import LimitedJob
from chorus_proto.errors import ClusterError, Draining, UnreadableDocument, error_of

log = logging.getLogger(__name__)

DOCUMENTS_EACH = 64
"""Then the child is replaced: whatever a document may have left in it ends there."""
_START_WITHIN_S = 30.0
_ANSWER_OVERHEAD = 8
"""JSON may write one character as `\\u0000`: six bytes for one, and some for the blocks."""

if sys.platform == "win32":
    _FLAGS = subprocess.CREATE_NO_WINDOW | subprocess.BELOW_NORMAL_PRIORITY_CLASS
else:
    _FLAGS = 0


class Parser:
    """Reads documents in child processes, at most `workers` at once. Close it at the end."""

    def __init__(
        self, limits: ParseLimits, *, within_s: float, workers: int = 2, command: Sequence[str] | None = None
    ) -> None:
        self._limits = limits
        self._within_s = within_s
        self._turns = asyncio.Semaphore(workers)
        own = (sys.executable, "-P", "-m", "chorus_http.rag.parse")
        self._command = (*(command or own), msgspec.json.encode(limits).decode())
        self._children: set[_Child] = set()
        self._closed = False

    @asynccontextmanager
    async def batch(self) -> AsyncGenerator[Batch]:
        """Documents read one after the other may share a child."""
        batch = Batch(self)
        try:
            yield batch
        finally:
            await batch.close()

    async def parse(self, kind: Kind, raw: bytes) -> Parsed:
        """One document. Raises what `Batch.parse` raises."""
        async with self.batch() as batch:
            return await batch.parse(kind, raw)

    async def close(self) -> None:
        """End every child, whatever it works on."""
        self._closed = True
        for child in tuple(self._children):
            await self.end(child)

    async def begin(self) -> _Child:
        """Raises UnreadableDocument when no child can be started."""
        if self._closed:
            raise Draining("This process is shutting down.")
        child = await _Child.start(self._command, self._limits)
        self._children.add(child)
        return child

    async def end(self, child: _Child) -> None:
        self._children.discard(child)
        await child.end()

    async def answer(self, child: _Child, kind: Kind, raw: bytes) -> Answer:
        """Raises UnreadableDocument when the child dies of the document or takes too long; it is of no use then."""
        most_bytes = self._limits.expanded_bytes * _ANSWER_OVERHEAD
        async with self._turns:
            try:
                async with asyncio.timeout(self._within_s):
                    return await child.ask(Order(kind=kind), raw, most_bytes=most_bytes)
            except TimeoutError:
                raise UnreadableDocument(f"The document was not read within {self._within_s:g} s.") from None
            except (OSError, EOFError, msgspec.MsgspecError) as error:
                log.warning("the reader of a %s document ended: %r", kind, error)
                raise UnreadableDocument(
                    "The document takes more memory or computing time to read than a document may."
                ) from None


class Batch:
    """Reads documents one after the other; made by `Parser.batch`."""

    def __init__(self, parser: Parser) -> None:
        self._parser = parser
        self._child: _Child | None = None
        self._left = 0

    async def parse(self, kind: Kind, raw: bytes) -> Parsed:
        """Raises UnreadableDocument, ExpandedTooLarge, UnsupportedMediaType or InvalidRequest."""
        if self._child is None or self._left <= 0:
            await self.close()
            self._child, self._left = await self._parser.begin(), DOCUMENTS_EACH
        self._left -= 1
        try:
            answer = await self._parser.answer(self._child, kind, raw)
        except BaseException:
            await self.close()
            raise
        if answer.parsed is None:
            # A child that has run out of something once may not be itself any more.
            await self.close()
            raise refusal_of(answer)
        return answer.parsed

    async def close(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            await self._parser.end(child)


class _Child:
    def __init__(self, process: asyncio.subprocess.Process, job: LimitedJob | None) -> None:
        self._process = process
        self._job = job

    @classmethod
    async def start(cls, command: Sequence[str], limits: ParseLimits) -> _Child:
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=_environment(),
                close_fds=True,
                creationflags=_FLAGS,
            )
        except OSError as error:
            raise UnreadableDocument(f"No process to read the document could be started: {error.strerror}.") from None
        job = None
        if sys.platform == "win32":
            try:
                # Its clock counts over all documents of the child, so it is given the time of each.
                job = LimitedJob(
                    process.pid, memory_bytes=limits.memory_bytes, cpu_s=limits.cpu_s * (DOCUMENTS_EACH + 1)
                )
            except OSError as error:
                log.warning("the reader of documents runs without a memory limit: %s", error)
        child = cls(process, job)
        try:
            async with asyncio.timeout(_START_WITHIN_S):
                if await child.frame(most_bytes=64) != b"ready":
                    raise EOFError
        except (TimeoutError, OSError, EOFError):
            await child.end()
            raise UnreadableDocument("The process that reads documents did not start.") from None
        except BaseException:
            await child.end()
            raise
        return child

    async def ask(self, order: Order, raw: bytes, *, most_bytes: int) -> Answer:
        """Raises OSError or EOFError when the child ended, MsgspecError when it babbles."""
        to_child = self._process.stdin
        assert to_child is not None  # it was asked for
        for frame in (msgspec.json.encode(order), raw):
            to_child.write(len(frame).to_bytes(4, "big"))
            to_child.write(frame)
            await to_child.drain()
        return msgspec.json.decode(await self.frame(most_bytes=most_bytes), type=Answer)

    async def frame(self, *, most_bytes: int) -> bytes:
        from_child = self._process.stdout
        assert from_child is not None  # it was asked for
        length = int.from_bytes(await from_child.readexactly(4), "big")
        if length > most_bytes:
            raise EOFError(f"a frame of {length} bytes")
        return await from_child.readexactly(length)

    async def end(self) -> None:
        """At once: it holds nothing worth saving."""
        if self._job is not None:
            self._job.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        if self._process.stdin is not None:
            self._process.stdin.close()
        await self._process.wait()


def _environment() -> dict[str, str]:
    """Empty but for where our own code lies, and what Windows needs to start any process."""
    roots = {str(Path(package.__path__[0]).parent): None for package in (chorus_http, chorus_proto)}
    kept = {name: os.environ[name] for name in ("SYSTEMROOT",) if sys.platform == "win32" and name in os.environ}
    return {**kept, "PYTHONPATH": os.pathsep.join(roots), "PYTHONUTF8": "1"}


def refusal_of(answer: Answer | Refused) -> ClusterError:
    """What a parser's refusal is to the document's sender."""
    reason = answer.reason if isinstance(answer, Refused) else answer.refusal or Refusal.UNREADABLE
    return error_of(reason, answer.message, param="file")
