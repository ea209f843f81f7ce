"""Real engine processes for tests: the bundled models, and ways to kill what serves them."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil

import chorus_client
from chorus_client.engines.base import LoadedModel
from chorus_client.engines.served_process import ServedModel
from chorus_proto.errors import ModelNotFound
from chorus_proto.ids import ModelName
from chorus_proto.values import EngineKind, ModelFile

TINY = ModelName("demo-tiny")
TINY_PATH = Path(chorus_client.__path__[0], "models", "demo-tiny-q8_0.gguf")


class OneFile:
    """A `ModelFiles` of the smallest bundled model."""

    def __init__(self, path: Path = TINY_PATH) -> None:
        self._path = path

    def files(self) -> list[ModelFile]:
        return [
            ModelFile(name=TINY, file_bytes=self._path.stat().st_size, engine=EngineKind.LLAMA_SERVER),
        ]

    def path_of(self, name: ModelName) -> Path:
        if name != TINY:
            raise ModelNotFound(f"no file for {name}")
        return self._path


async def kill_served(model: LoadedModel) -> None:
    assert isinstance(model, ServedModel)
    psutil.Process(model.pid).send_signal(signal.SIGTERM if psutil.WINDOWS else signal.SIGKILL)


async def busy_slots_of(model: LoadedModel) -> int:
    assert isinstance(model, ServedModel)
    return await model.busy_slots()
