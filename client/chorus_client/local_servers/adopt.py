"""Keeps the pool in step with the local servers that run: whoever started one, the hub may balance over it."""

from __future__ import annotations

import asyncio
import logging

from chorus_client.engines.base import LoadOptions
from chorus_client.local_servers.engine import LocalServersEngine
from chorus_client.pool import Pool
from chorus_proto.errors import ClusterError
from chorus_proto.values import ReplicaState

log = logging.getLogger(__name__)


async def adopt_running(engine: LocalServersEngine, pool: Pool, *, every_s: float) -> None:
    """Start what has `auto_start`, then take every server that answers into the pool, until cancelled.

    The pool drops a server that stops; it comes back here once it answers again.
    """
    await engine.auto_start()
    while True:
        try:
            # A new server in the file must be known to the pool before it can be loaded.
            await pool.inventory()
            known = {report.model for report in pool.reports() if report.state is not ReplicaState.FAILED}
            for model in await engine.running():
                if model not in known:
                    pool.load(model, LoadOptions(), adopted=True)
        except ClusterError as error:
            log.warning("the local servers cannot be looked at: %s", error.message)
        await asyncio.sleep(every_s)
