"""Hugging Face SafeTensors models, each served by a `chorus_client.model_server` process of its own."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from chorus_client.engines.base import DEFAULT_CONTEXT_TOKENS, DEFAULT_SLOTS, LoadOptions, ModelFiles, Report
from chorus_client.engines.llama_server import default_threads
from chorus_client.engines.served_process import ServedModel, ServeLimits, ServeOrder, serve
from chorus_client.process import own_python
from chorus_proto.errors import EngineUnavailable, LoadFailed, ModelNotFound
from chorus_proto.values import EngineKind, ModelFile

NEEDED = ("torch", "transformers", "llguidance")
"""What the extra `transformers` of this package installs."""


def missing() -> list[str]:
    """The packages that this engine lacks on this PC. Imports nothing."""
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


class TransformersEngine:
    """Runs folders of SafeTensors files (`Engine`).

    `threads`: CPU threads of each loaded model, None for `default_threads()`. `device_map` as the model server's flag.
    `slots` and `context_tokens` (per slot, at most what the model was trained for) apply where a load does not say.
    """

    def __init__(
        self,
        files: ModelFiles,
        *,
        threads: int | None = None,
        device_map: str = "auto",
        slots: int = DEFAULT_SLOTS,
        context_tokens: int = DEFAULT_CONTEXT_TOKENS,
        limits: ServeLimits | None = None,
    ) -> None:
        self._files = files
        self._threads = threads or default_threads()
        self._device_map = device_map
        self._default_slots = slots
        self._default_context_tokens = context_tokens
        self._limits = limits or ServeLimits()

    @property
    def kind(self) -> EngineKind:
        return EngineKind.TRANSFORMERS

    async def inventory(self) -> list[ModelFile]:
        if lacking := missing():
            raise EngineUnavailable(f"{', '.join(lacking)} not installed: pip install 'chorus-llm[transformers]'")
        return self._files.files()

    async def load(self, model: ModelFile, options: LoadOptions, report: Report) -> ServedModel:
        try:
            path = self._files.path_of(model.name)
        except ModelNotFound as error:
            raise LoadFailed(f"{model.name} is not on this node: {error.message}") from None
        slots = options.slots or self._default_slots
        context_tokens = options.context_tokens or self._default_context_tokens
        if model.shape is not None:
            context_tokens = min(context_tokens, model.shape.trained_context_tokens)

        def command(port: int, key_file: Path) -> Sequence[str]:
            """No secret may stand here: argv is public."""
            flags = ["--model-path", str(path), "--model-name", model.name, "--host", "127.0.0.1", "--port", str(port)]
            flags += ["--api-key-file", str(key_file), "--max-concurrent", str(slots)]
            flags += ["--context-tokens", str(context_tokens), "--threads", str(self._threads)]
            # Thoughts stay in the text, where the agent separates them for every engine alike. Nothing waits here:
            # the agent counts the slots.
            flags += ["--device-map", self._device_map, "--reasoning-format", "none"]
            return own_python("chorus_client.model_server", *flags)

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
