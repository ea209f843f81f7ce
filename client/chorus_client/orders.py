"""What a coordinator may order, as values: the border between the link, which reads, and the agent, which acts."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from chorus_proto.ids import ExecutionId, ModelName, RequestId
from chorus_proto.values import Dialect, Heartbeat, Hello, Welcome

if TYPE_CHECKING:
    from chorus_client.link import Uplink


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecuteOrder:
    """Run one attempt of a request. `dialect` is None for one that this agent is too old to know."""

    execution_id: ExecutionId
    request_id: RequestId
    model: ModelName
    dialect: Dialect | None
    stream: bool
    generation: bytes
    within_s: float
    created_unix_s: int
    window_bytes: int
    """Payload bytes that may be sent before the first credit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOrder:
    """`keep_alive_s`: free it after so long without a use, None: it stays. `retry`: forget crashes and refusals."""

    model: ModelName
    slots: int
    context_tokens: int
    keep_alive_s: float | None = None
    retry: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class UnloadOrder:
    model: ModelName
    drain_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchOrder:
    """Bring a model onto this disk: from `source` when it is set, else over the stream that `ticket` opens.

    `digest` is "" and `file_bytes` 0 while unknown; without `model` it gets the name that follows from its source.
    `folder`: what comes over the stream is the archive of a model folder, and digest and size are the archive's.
    """

    transfer_id: str
    model: ModelName | None = None
    digest: str = ""
    file_bytes: int = 0
    source: str = ""
    ticket: str = ""
    folder: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SendOrder:
    """Send the file with this digest, from `offset` to its end, over the stream that `ticket` opens."""

    transfer_id: str
    model: ModelName
    digest: str
    offset: int
    ticket: str


class Orders(Protocol):
    """Who acts on the orders. Each returns at once; work goes on in tasks of its own."""

    def hello(self) -> Hello: ...

    def linked(self, uplink: Uplink, welcome: Welcome) -> None: ...

    def unlinked(self) -> None: ...

    def beat(self, sequence: int) -> Awaitable[Heartbeat]: ...

    def execute(self, order: ExecuteOrder) -> None: ...

    def cancel(self, execution_id: int) -> None: ...

    def credit(self, execution_id: int, count_bytes: int) -> None: ...

    def load(self, order: LoadOrder) -> None: ...

    def unload(self, order: UnloadOrder) -> None: ...

    def remove(self, model: ModelName) -> None: ...

    def fetch(self, order: FetchOrder) -> None: ...

    def send(self, order: SendOrder) -> None: ...

    def cancel_fetch(self, transfer_id: str) -> None: ...
