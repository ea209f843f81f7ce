"""The protocol behind which every engine hides. tests/client/engine_contract.py holds each implementation to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from chorus_client.footprint import Resident
from chorus_proto.generation import Generation, PieceBatches
from chorus_proto.ids import ModelName
from chorus_proto.values import EngineKind, ModelFile


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadProgress:
    """How far a load is: `share` 0-1 (None when unknown), what is going on, and what it holds by now."""

    share: float | None
    detail: str
    resident: Resident | None = None


Report = Callable[[LoadProgress], None]
"""Called now and then while a model loads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """Why a loaded model can no longer serve, in a sentence for people. `for_memory`: it ran out of memory."""

    reason: str
    for_memory: bool = False


CHILD_ENGINES = frozenset({EngineKind.LLAMA_SERVER, EngineKind.SCRIPTED, EngineKind.TRANSFORMERS})
"""Those whose models are processes of ours."""
DEFAULT_SLOTS = 4
DEFAULT_CONTEXT_TOKENS = 4096
"""What those take where a load does not say."""


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

    def generate(self, generation: Generation) -> PieceBatches:
        """Yield what `Piece` says, in batches. Closing the generator early stops the engine's work on it within 2 s.

        Raises EngineFailed (the engine broke), InvalidRequest, ContextLengthExceeded or UnsupportedParameter (the
        engine refused: `param` names the field), EngineUnavailable (it cannot be reached).
        """
        ...

    async def resident(self) -> Resident | None:
        """Memory the loaded model holds now, measured; None when the engine cannot tell."""
        ...

    async def wait_closed(self) -> Ending:
        """Return once this loaded model can no longer serve."""
        ...

    async def unload(self, *, force: bool = False) -> None:
        """Free it. Returns when the memory is free. A second call does nothing.

        `force`: it hangs; end its process without asking it first.
        """
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
