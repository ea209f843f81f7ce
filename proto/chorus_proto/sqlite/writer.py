"""The one thread that touches the database. Work that arrives while a transaction runs shares the next one.

One commit with `synchronous=FULL` costs a disk flush; sharing it is what lets many small writes be durable cheaply.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from chorus_proto.errors import ClusterError, Draining, InternalError, QueueFull
from chorus_proto.sqlite.failures import as_cluster_error

log = logging.getLogger(__name__)

QUEUE_LIMIT = 1024
GROUP_LIMIT = 256
CLOSE_WITHIN_S = 30.0

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]


@dataclass(slots=True)
class _Job(Generic[T]):
    work: Work[T]
    done: Future[T] = field(default_factory=lambda: Future[T]())
    result: T | None = None
    error: BaseException | None = None

    def run(self, connection: sqlite3.Connection) -> None:
        self.result = self.work(connection)

    def settle(self, error: BaseException | None) -> None:
        """Tell the waiter; `error` overrules what the work itself came to."""
        failure = error or self.error
        if failure is not None:
            self.done.set_exception(failure)
        else:
            self.done.set_result(self.result)  # pyright: ignore[reportArgumentType] - set by run, or there is an error


class Writer:
    """Owns the connection until `close`."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path
        self._jobs: queue.Queue[_Job[object] | None] = queue.Queue(maxsize=QUEUE_LIMIT)
        self._gate = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)
        self._thread.start()

    async def do(self, work: Work[T]) -> T:
        """Run `work` in a transaction and return its result once that is on the disk.

        Raises QueueFull, Draining after `close`, and what `as_cluster_error` makes of SQLite's errors.
        """
        job = _Job[T](work)
        with self._gate:
            if self._closed:
                raise Draining("the store is closed")
            try:
                self._jobs.put_nowait(job)  # pyright: ignore[reportArgumentType] - the thread never looks at T
            except queue.Full:
                raise QueueFull(f"{QUEUE_LIMIT} changes wait for the disk already", retry_after_s=1) from None
        return await asyncio.wrap_future(job.done)

    def close(self) -> None:
        """Write what is queued and close the file. Blocks. A second call does nothing."""
        with self._gate:
            if self._closed:
                return
            self._closed = True
        with contextlib.suppress(queue.Full):
            self._jobs.put(None, timeout=CLOSE_WITHIN_S)
        self._thread.join(CLOSE_WITHIN_S)
        if self._thread.is_alive():
            log.error("%s was not written out within %g s", self._path, CLOSE_WITHIN_S)

    def _run(self) -> None:
        going_on = True
        while going_on:
            group = [self._jobs.get()]
            while len(group) < GROUP_LIMIT and group[-1] is not None:
                try:
                    group.append(self._jobs.get_nowait())
                except queue.Empty:
                    break
            going_on = group[-1] is not None
            self._commit([job for job in group if job is not None and job.done.set_running_or_notify_cancel()])
        self._connection.close()

    def _commit(self, group: list[_Job[object]]) -> None:
        if not group:
            return
        failure: BaseException | None = None
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for job in group:
                self._savepoint(job)
            self._connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - the thread must outlive every failure; waiters get it
            failure = self._translated(error)
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        for job in group:
            job.settle(failure)

    def _savepoint(self, job: _Job[object]) -> None:
        """Run one job so that its failure takes back only its own changes."""
        self._connection.execute("SAVEPOINT job")
        try:
            job.run(self._connection)
        except Exception as error:  # whatever it is, it belongs to this job's waiter alone
            if not self._connection.in_transaction:
                # SQLite has rolled the whole transaction back (disk full, I/O error): everybody's changes are gone.
                raise
            job.error = self._translated(error)
            self._connection.execute("ROLLBACK TO job")
        self._connection.execute("RELEASE job")

    def _translated(self, error: Exception) -> ClusterError:
        if isinstance(error, ClusterError):
            return error
        translated = as_cluster_error(error, self._path) if isinstance(error, sqlite3.Error) else None
        if translated is None or isinstance(translated, InternalError):
            log.error("a bug in the store", exc_info=error)
        return translated or InternalError(f"the store failed: {error!r}")
