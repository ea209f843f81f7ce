"""Who runs the engine that `engine_embedder` asks, and where it is. Needs none of the extra packages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    url: str
    api_key: str
    model: str
    digest: str


class EngineHost(Protocol):
    """Who runs the engine."""

    async def address(self) -> Address:
        """Where it answers; started now if it does not run. Raises EngineUnavailable, LoadFailed."""
        ...

    async def failed(self) -> None:
        """It did not answer as it should: end it, so that the next `address` starts another."""
        ...

    async def close(self) -> None: ...
