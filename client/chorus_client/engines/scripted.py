"""The scripted engine: a real process with deterministic text and faults on request (see scripted_server.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from chorus_client.engines.base import LoadOptions, Report
from chorus_client.engines.served_process import ServedModel, ServeLimits, ServeOrder, serve
from chorus_client.process import own_python
from chorus_proto.errors import LoadFailed
from chorus_proto.ids import ModelName
from chorus_proto.values import EngineKind, ModelFile

SCRIPTED_MODEL = ModelName("scripted")


class ScriptedEngine:
    """Serves invented models by name (`Engine`).

    `tokens_per_s` 0 is full speed. `faults`: what `--fault` of the server takes, e.g. {"crash_after": "5"}; they hold
    for every request, while a marker in a prompt holds for that one.
    """

    def __init__(
        self,
        *,
        models: Sequence[ModelName] = (SCRIPTED_MODEL,),
        ttft_s: float = 0.0,
        tokens_per_s: float = 0.0,
        load_s: float = 0.0,
        answer_tokens: int = 32,
        slots: int = 4,
        context_tokens: int = 4096,
        faults: Mapping[str, str] | None = None,
        limits: ServeLimits | None = None,
    ) -> None:
        self._models = tuple(models)
        self._flags = ["--ttft-s", f"{ttft_s:g}", "--tokens-per-s", f"{tokens_per_s:g}", "--load-s", f"{load_s:g}"]
        self._flags += ["--answer-tokens", str(answer_tokens)]
        for name, value in (faults or {}).items():
            self._flags += ["--fault", f"{name}={value}"]
        self._default_slots = slots
        self._default_context_tokens = context_tokens
        self._limits = limits or ServeLimits()

    @property
    def kind(self) -> EngineKind:
        return EngineKind.SCRIPTED

    async def inventory(self) -> list[ModelFile]:
        return [ModelFile(name=name, file_bytes=0, engine=EngineKind.SCRIPTED) for name in self._models]

    async def load(self, model: ModelFile, options: LoadOptions, report: Report) -> ServedModel:
        if model.name not in self._models:
            raise LoadFailed(f"{model.name} is not one of the scripted models: {', '.join(self._models)}")
        slots = options.slots or self._default_slots
        context_tokens = options.context_tokens or self._default_context_tokens

        def command(port: int, key_file: Path) -> Sequence[str]:
            flags = ["--port", str(port), "--api-key-file", str(key_file), "--alias", model.name]
            flags += ["--parallel", str(slots), "--ctx-size", str(slots * context_tokens)]
            return own_python("chorus_client.scripted_server", *flags, *self._flags)

        order = ServeOrder(
            command=command,
            python_child=True,
            model=model.name,
            alias=model.name,
            file_bytes=model.file_bytes,
            slots=slots,
            context_tokens=context_tokens,
        )
        return await serve(order, report, self._limits)

    async def aclose(self) -> None:
        """Nothing to let go of: each loaded model has its own process and connections."""
