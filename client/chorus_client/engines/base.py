"""The protocol behind which every engine hides. tests/client/engine_contract.py holds each implementation to it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from chorus_proto.generation import Generation, Piece
from chorus_proto.ids import ModelName
from chorus_proto.values import EngineKind, ModelFile

Report = Callable[[float | None, str], None]
"""Called while a model loads with the progress (0-1, None when unknown) and what is going on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """How to load: generations at once, and context tokens for each of them. 0 means the engine's default."""

    slots: int = 0
    context_tokens: int = 0


class ModelFiles(Protocol):
    """The model files on this node's disk; inventory.py finds them."""

    def files(self) -> list[ModelFile]: ...

    def path_of(self, name: ModelName) -> Path:
        """Where the file lies. Raises ModelNotFound."""
        ...


class LoadedModel(Protocol):
    """One model, loaded and able to generate. Ends by `unload`, or by itself when the engine dies."""

    @property
    def slots(self) -> int: ...

    @property
    def context_tokens(self) -> int:
        """Per slot; 0 when the engine does not tell."""
        ...

    def generate(self, generation: Generation) -> AsyncGenerator[Piece, None]:
        """Yield deltas, then one `Done`. Closing the generator early stops the engine's work on it within 2 s.

        Raises EngineFailed (the engine broke), InvalidRequest, ContextLengthExceeded or UnsupportedParameter (the
        engine refused: `param` names the field), EngineUnavailable (it cannot be reached).
        """
        ...

    async def resident_bytes(self) -> int | None:
        """Memory the loaded model holds now, measured; None when the engine cannot tell."""
        ...

    async def wait_closed(self) -> str:
        """Return, once this loaded model can no longer serve, the reason in a sentence for people."""
        ...

    async def unload(self) -> None:
        """Free it. Returns when the memory is free. A second call does nothing."""
        ...


class Engine(Protocol):
    """One way to run models on this node."""

    @property
    def kind(self) -> EngineKind: ...

    async def inventory(self) -> list[ModelFile]:
        """The models this engine could load now without fetching anything. Raises EngineUnavailable."""
        ...

    async def load(self, model: ModelFile, options: LoadOptions, report: Report) -> LoadedModel:
        """Load one model of the inventory. Raises LoadFailed, InsufficientMemory or EngineUnavailable."""
        ...

    async def aclose(self) -> None:
        """Let go of connections; loaded models are unloaded by their owner first."""
        ...
