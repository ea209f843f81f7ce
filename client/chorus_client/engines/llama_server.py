"""llama.cpp's HTTP server: the bundled `chorus-llama-server` or an external `llama-server`, one process per model."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import psutil

from chorus_client.engine_parameters import RawParameter, as_flags
from chorus_client.engines.base import DEFAULT_CONTEXT_TOKENS, DEFAULT_SLOTS, LoadOptions, ModelFiles, Report
from chorus_client.engines.served_process import ServedModel, ServeLimits, ServeOrder, serve
from chorus_client.gguf import read_header
from chorus_client.integrity import check_header
from chorus_client.model_options import GPU_LAYERS, ModelOptions
from chorus_client.model_shape import is_reranker
from chorus_client.process import own_python
from chorus_proto.errors import EngineUnavailable, LoadFailed, ModelNotFound
from chorus_proto.ids import ModelName
from chorus_proto.settings import SettingsError
from chorus_proto.values import EngineKind, ModelFile

_PIECE_TOKENS = 512
"""llama.cpp's own size of a physical batch."""

Checked = Callable[[ModelName, Report], Awaitable[Path]]
"""Where a model's file lies, refused when it is damaged. Raises ModelNotFound, ModelDamaged or LoadFailed."""


def default_threads() -> int:
    """One less than the physical cores this process may use, at least 1.

    llama.cpp's threads wait for each other by spinning: with as many of them as busy cores the throughput collapsed
    from 1,449 to 5 tokens/s (measured on 2 cores). The core left over is the agent's and the PC owner's. Decoding is
    bound by memory, so hyper-threads add nothing.
    """
    physical = psutil.cpu_count(logical=False) or (os.cpu_count() or 2) // 2
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else physical
    return max(1, min(physical, allowed) - 1)


class LlamaServerEngine:
    """Runs GGUF files (`Engine`).

    `llama_server_path`: an external binary, None for the bundled command. `threads`: engine threads of each loaded
    model, None for `default_threads()`. `gpu_layers`: None leaves it to llama.cpp. `slots` and `context_tokens` (per
    slot, at most what the model was trained for) apply where a load does not say. `model_options`: engine parameters of
    single models, which win. `checked`: where a model's file lies, once it is fit to be loaded; None looks at its
    header only. Raises SettingsError for a parameter that the engine does not take.
    """

    def __init__(
        self,
        files: ModelFiles,
        *,
        llama_server_path: Path | None = None,
        threads: int | None = None,
        gpu_layers: int | None = None,
        slots: int = DEFAULT_SLOTS,
        context_tokens: int = DEFAULT_CONTEXT_TOKENS,
        model_options: Mapping[ModelName, ModelOptions] | None = None,
        checked: Checked | None = None,
        limits: ServeLimits | None = None,
    ) -> None:
        self._files = files
        self._external = llama_server_path
        self._threads = threads or default_threads()
        self._gpu_layers = gpu_layers
        self._default_slots = slots
        self._default_context_tokens = context_tokens
        self._limits = limits or ServeLimits()
        self._checked = checked or self._sound
        self._params = {name: one.params for name, one in (model_options or {}).items()}
        for name, params in self._params.items():
            # Refused at the start of the agent, not at the load that nobody watches.
            as_flags(params, bundled=self._external is None, key=f"params of {name!r}")
            if gpu_layers == 0 and params.get(GPU_LAYERS, 0) != 0:
                # Memory is judged for the host then, and the coordinator is told of no GPU.
                raise SettingsError(f"params of {name!r}: gpu_layers = 0 keeps every model off the GPU; remove one")

    @property
    def kind(self) -> EngineKind:
        return EngineKind.LLAMA_SERVER

    async def inventory(self) -> list[ModelFile]:
        if self._external is not None and not os.access(self._external, os.X_OK):
            raise EngineUnavailable(f"llama_server_path {self._external} is not a program that can be run")
        return self._files.files()

    async def load(self, model: ModelFile, options: LoadOptions, report: Report) -> ServedModel:
        try:
            path = await self._checked(model.name, report)
        except ModelNotFound as error:
            raise LoadFailed(f"{model.name} is not on this node: {error.message}") from None
        ranks = model.embedding and is_reranker(await asyncio.to_thread(read_header, path))
        slots = options.slots or self._default_slots
        context_tokens = options.context_tokens or self._default_context_tokens
        if model.shape is not None:
            context_tokens = min(context_tokens, model.shape.trained_context_tokens)

        def command(port: int, key_file: Path) -> Sequence[str]:
            return self._command(
                model,
                path,
                port=port,
                key_file=key_file,
                slots=slots,
                total_context_tokens=slots * context_tokens,
                ranks=ranks,
            )

        order = ServeOrder(
            command=command,
            python_child=self._external is None,
            model=model.name,
            alias=model.name,
            file_bytes=model.file_bytes,
            slots=slots,
            context_tokens=context_tokens,
            ranks=ranks,
            tools=model.tools,
        )
        return await serve(order, report, self._limits)

    async def _sound(self, name: ModelName, _report: Report) -> Path:
        path = self._files.path_of(name)
        await check_header(path)
        return path

    def _command(
        self,
        model: ModelFile,
        path: Path,
        *,
        port: int,
        key_file: Path,
        slots: int,
        total_context_tokens: int,
        ranks: bool,
    ) -> list[str]:
        """llama-server's context size is for all slots together. No secret may stand here: argv is public."""
        flags = ["--model", str(path), "--alias", model.name, "--host", "127.0.0.1", "--port", str(port)]
        flags += ["--api-key-file", str(key_file), "--slots", "--metrics", "--offline", "--no-webui"]
        own = self._params.get(model.name, {})
        threads = own.get("threads", self._threads)
        parameters: dict[str, RawParameter] = {
            "parallel": slots,
            "ctx-size": total_context_tokens,
            "threads": threads,
            "threads-batch": threads,
            "jinja": True,
            # Thoughts stay in the text, where the agent separates them for every engine alike.
            "reasoning-format": "none",
            # Prompts of idle slots would be kept in host memory, 8 GiB by default: no estimate could hold.
            "cache-ram": 0,
            "embedding": model.embedding and not ranks,
            "reranking": ranks,
        }
        if model.embedding:
            # A text to embed is computed in one piece, and one that is larger than the piece is refused.
            piece = max(_PIECE_TOKENS, total_context_tokens // slots)
            parameters |= {"batch-size": piece, "ubatch-size": piece}
        if self._gpu_layers is not None:
            parameters[GPU_LAYERS] = self._gpu_layers
        flags += as_flags(parameters | dict(own), bundled=self._external is None, key=f"params of {model.name!r}")
        if self._external is not None:
            return [str(self._external), *flags]
        return own_python("chorus_client.llama_cpp_server", *flags)

    async def aclose(self) -> None:
        """Nothing to let go of: each loaded model has its own process and connections."""
