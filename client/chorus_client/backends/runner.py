"""All backends of one coordinator: one node each, in the process that has both the coordinator and the agent's code.

In that process rather than in one of its own: it needs no way to hand a backend's secret over, and one thing less can
be missing. A backend busy enough to be felt there can be served by an agent on any PC instead.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from chorus_client.backends.addresses import host_and_port, require_allowed
from chorus_client.backends.node import BackendNode, BackendRules
from chorus_client.link import Refused
from chorus_client.membership import Door, open_door
from chorus_client.transfer.checked_resolver import CheckedResolver
from chorus_proto.addresses import is_ip_address
from chorus_proto.backends import BackendHealth, BackendState, RegisteredBackend
from chorus_proto.clock import Clock
from chorus_proto.errors import AddressNotAllowed, InvalidRequest, TransferFailed

log = logging.getLogger(__name__)

RESOLVE_WITHIN_S = 5.0
STOP_GRACE_S = 5.0


class BackendNodes:
    """Satisfies the coordinator's `BackendRunner`. Close it with `aclose`."""

    def __init__(self, *, join: str, folder: Path, clock: Clock, rules: BackendRules, door: Door = open_door) -> None:
        """`join`: HOST:PORT of the coordinator, `door`: how it is dialled. `folder`: where its files may lie."""
        self._door = door
        self._join = join
        self._folder = folder
        self._clock = clock
        self._rules = rules
        self._running: dict[str, tuple[BackendNode, asyncio.Task[None]]] = {}

    async def check(self, url: str) -> None:
        """Raises AddressNotAllowed, and InvalidRequest for what is no address."""
        try:
            require_allowed(url, self._rules.hosts)
            host, port = host_and_port(url)
            if not is_ip_address(host):
                await self._resolve(host, port)
        except TransferFailed as error:
            raise InvalidRequest(error.message, param="url") from None
        except AddressNotAllowed as error:
            raise AddressNotAllowed(
                f"{error.message}; the coordinator's setting backend_hosts can allow it, as HOST, HOST:PORT or "
                "NETWORK/BITS",
                param="url",
            ) from None

    async def _resolve(self, host: str, port: int) -> None:
        """Raises AddressNotAllowed. A name that says nothing now may do so later, and is checked again then."""
        resolver = CheckedResolver(self._rules.hosts)
        try:
            async with asyncio.timeout(RESOLVE_WITHIN_S):
                await resolver.resolve(host, port)
        except (OSError, TimeoutError) as error:
            log.info("backend host %s cannot be resolved now: %s", host, error)
        except UnicodeError:
            raise InvalidRequest("the url has no valid host", param="url") from None
        finally:
            await resolver.close()

    def start(self, backend: RegisteredBackend) -> None:
        node = BackendNode(
            backend,
            join=self._join,
            folder=self._folder / backend.wish.name,
            clock=self._clock,
            rules=self._rules,
            door=self._door,
        )
        task = asyncio.create_task(node.run(), name=f"backend:{backend.wish.name}")
        task.add_done_callback(lambda done: _say_if_broken(backend.wish.name, done))
        self._running[backend.wish.name] = (node, task)

    async def stop(self, name: str) -> None:
        node, task = self._running.pop(name)
        node.leave()
        done, _ = await asyncio.wait({task}, timeout=self._rules.drain_s + STOP_GRACE_S)
        if not done:
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    def health(self, name: str) -> BackendHealth:
        found = self._running.get(name)
        if found is None:
            return BackendHealth(state=BackendState.STARTING)
        node, task = found
        if task.done():
            return BackendHealth(state=BackendState.UNHEALTHY, detail="its node broke; see the log")
        return node.health

    async def aclose(self) -> None:
        """End every node; what still runs there is cut."""
        await asyncio.gather(*(self._end(node, task) for node, task in self._running.values()))
        self._running.clear()

    async def _end(self, node: BackendNode, task: asyncio.Task[None]) -> None:
        node.leave()
        await asyncio.wait({task}, timeout=STOP_GRACE_S)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _say_if_broken(name: str, task: asyncio.Task[None]) -> None:
    if task.cancelled() or (error := task.exception()) is None:
        return
    if isinstance(error, Refused):
        log.error("backend %s cannot be a node: %s", name, error)
    else:
        log.error("backend %s broke", name, exc_info=error)
