"""Speaks Ollama's API with a real llama.cpp (the bundled server) behind it: Ollama itself is too large for a test.

Shapes follow Ollama's `docs/api.md`: NDJSON streams, durations in nanoseconds, `keep_alive` 0 unloads, an empty prompt
loads.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
from aiohttp import web

from chorus_client.engines.base import LoadOptions
from chorus_client.engines.llama_server import LlamaServerEngine
from chorus_client.engines.served_process import ServedModel
from chorus_client.gguf import read_header
from chorus_client.model_shape import is_embedding
from chorus_proto.errors import ClusterError, ModelNotFound
from chorus_proto.generation import Delta, Done, Generation, Message
from chorus_proto.ids import ModelName
from chorus_proto.values import EngineKind, ModelFile
from tests.support.pieces import each

VERSION = "0.35.0"


class _Options(msgspec.Struct):
    num_ctx: int = 4096
    num_predict: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: list[str] = []
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None


class _Turn(msgspec.Struct):
    role: str
    content: str = ""


class _Asked(msgspec.Struct):
    model: str
    messages: list[_Turn] | None = None
    prompt: str = ""
    input: str | list[str] = ""
    raw: bool = False
    stream: bool = True
    keep_alive: float | str | None = None
    options: _Options = msgspec.field(default_factory=_Options)


class _Files:
    def __init__(self, models: Mapping[str, Path]) -> None:
        self._models = models

    def files(self) -> list[ModelFile]:
        return [
            ModelFile(
                name=ModelName(name),
                file_bytes=path.stat().st_size,
                engine=EngineKind.LLAMA_SERVER,
                embedding=is_embedding(read_header(path)),
            )
            for name, path in self._models.items()
        ]

    def path_of(self, name: ModelName) -> Path:
        if name not in self._models:
            raise ModelNotFound(f"model '{name}' not found")
        return self._models[name]


class OllamaStandIn:
    """`async with OllamaStandIn({"tiny:latest": path}) as server: ... server.url`; one slot count for all models."""

    def __init__(self, models: Mapping[str, Path], *, slots: int = 2) -> None:
        self._files = _Files(models)
        self._engine = LlamaServerEngine(self._files, threads=1)
        self._slots = slots
        self.loaded: dict[str, tuple[ServedModel, int]] = {}
        """What is resident, with its num_ctx."""
        self.loads = 0
        self.url = ""
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/api/version", self._version)
        app.router.add_get("/api/tags", self._tags)
        app.router.add_get("/api/ps", self._ps)
        app.router.add_post("/api/show", self._show)
        app.router.add_post("/api/generate", self._generate)
        app.router.add_post("/api/chat", self._generate)
        app.router.add_post("/api/embed", self._embed)
        app.router.add_post("/api/pull", self._pull)
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.end()

    async def end(self) -> None:
        """Go away like an Ollama that was killed. A second call does nothing."""
        loaded, self.loaded = self.loaded, {}
        for model, _ in loaded.values():
            await model.unload()
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()

    async def busy_slots(self) -> int:
        return sum([await model.busy_slots() for model, _ in self.loaded.values()])

    async def _version(self, request: web.Request) -> web.Response:
        return web.json_response({"version": VERSION})

    async def _tags(self, request: web.Request) -> web.Response:
        rows = [self._row(file) for file in self._files.files()]
        return web.json_response({"models": rows})

    def _row(self, file: ModelFile) -> dict[str, object]:
        family = "bert" if file.embedding else "llama"
        details = {"format": "gguf", "family": family, "parameter_size": "0.9M", "quantization_level": "Q8_0"}
        return {"name": file.name, "model": file.name, "size": file.file_bytes, "digest": "0" * 64, "details": details,
                "modified_at": "2026-01-01T00:00:00Z"}  # fmt: skip

    async def _ps(self, request: web.Request) -> web.Response:
        rows: list[dict[str, object]] = []
        for file in self._files.files():
            if file.name in self.loaded:
                model, num_ctx = self.loaded[file.name]
                held = await model.resident()
                size = 0 if held is None else held.total_bytes
                more = {"size": size, "size_vram": 0, "expires_at": "2318-01-01T00:00:00Z", "context_length": num_ctx}
                rows.append(self._row(file) | more)
        return web.json_response({"models": rows})

    async def _show(self, request: web.Request) -> web.Response:
        asked = msgspec.json.decode(await request.read(), type=_Asked)
        try:
            self._files.path_of(ModelName(asked.model))
        except ModelNotFound as error:
            return web.json_response({"error": error.message}, status=404)
        facts = {"general.architecture": "llama", "llama.context_length": 1024}
        return web.json_response({"model_info": facts, "capabilities": ["completion"], "details": {}})

    async def _resident(self, asked: _Asked) -> ServedModel:
        """Like Ollama: another num_ctx than the resident one loads the model anew."""
        resident = self.loaded.get(asked.model)
        if resident is not None and resident[1] == asked.options.num_ctx:
            return resident[0]
        if resident is not None:
            await resident[0].unload()
        file = next((f for f in self._files.files() if f.name == asked.model), None)
        if file is None:
            raise ModelNotFound(f"model '{asked.model}' not found")
        options = LoadOptions(slots=self._slots, context_tokens=asked.options.num_ctx)
        model = await self._engine.load(file, options, lambda _progress: None)
        self.loads += 1
        self.loaded[asked.model] = (model, asked.options.num_ctx)
        return model

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        asked = msgspec.json.decode(await request.read(), type=_Asked)
        chat = request.path == "/api/chat"
        if not asked.messages and not asked.prompt:
            return await self._load_or_unload(asked)
        started = time.monotonic_ns()
        try:
            model = await self._resident(asked)
        except ModelNotFound as error:
            return web.json_response({"error": error.message}, status=404)
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        async for line in self._lines(model, asked, chat=chat, started_ns=started):
            await response.write(line)
        await response.write_eof()
        return response

    async def _embed(self, request: web.Request) -> web.Response:
        asked = msgspec.json.decode(await request.read(), type=_Asked)
        texts = (asked.input,) if isinstance(asked.input, str) else tuple(asked.input)
        model = await self._resident(asked)
        vectors: list[list[float]] = []
        tokens = 0
        try:
            async for piece in each(model.generate(Generation(inputs=texts))):
                if isinstance(piece, Delta):
                    vectors.append(msgspec.json.decode(piece.text, type=list[float]))
                elif isinstance(piece, Done):
                    tokens = piece.prompt_tokens
        except ClusterError as error:
            return web.json_response({"error": error.message}, status=400)
        return web.json_response({"model": asked.model, "embeddings": vectors, "prompt_eval_count": tokens})

    async def _load_or_unload(self, asked: _Asked) -> web.Response:
        if asked.keep_alive == 0:
            resident = self.loaded.pop(asked.model, None)
            if resident is not None:
                await resident[0].unload()
            reason = "unload"
        else:
            try:
                await self._resident(asked)
            except ModelNotFound as error:
                return web.json_response({"error": error.message}, status=404)
            except ClusterError as error:
                return web.json_response({"error": error.message}, status=500)
            reason = "load"
        return web.json_response({"model": asked.model, "response": "", "done": True, "done_reason": reason})

    async def _lines(self, model: ServedModel, asked: _Asked, *, chat: bool, started_ns: int) -> AsyncIterator[bytes]:
        options = asked.options
        generation = Generation(
            messages=tuple(Message(role=m.role, content=m.content) for m in asked.messages or ()) if chat else None,
            prompt=None if chat else asked.prompt,
            max_tokens=options.num_predict,
            temperature=options.temperature,
            top_p=options.top_p,
            stop=tuple(options.stop),
            seed=options.seed,
            presence_penalty=options.presence_penalty,
            frequency_penalty=options.frequency_penalty,
        )
        first_ns = 0
        head: dict[str, object] = {"model": asked.model, "created_at": "2026-01-01T00:00:00Z"}
        async with contextlib.aclosing(each(model.generate(generation))) as pieces:
            async for piece in pieces:
                text = piece.text if isinstance(piece, Delta) else ""
                said = {"message": {"role": "assistant", "content": text}} if chat else {"response": text}
                first_ns = first_ns or time.monotonic_ns()
                more: dict[str, object] = {"done": False}
                if isinstance(piece, Done):
                    now = time.monotonic_ns()
                    more = {
                        "done": True,
                        "done_reason": piece.finish_reason,
                        "total_duration": now - started_ns,
                        "load_duration": 0,
                        "prompt_eval_count": piece.prompt_tokens,
                        "prompt_eval_duration": first_ns - started_ns,
                        "eval_count": piece.completion_tokens,
                        "eval_duration": now - first_ns,
                    }
                yield msgspec.json.encode(head | said | more) + b"\n"

    async def _pull(self, request: web.Request) -> web.StreamResponse:
        asked = msgspec.json.decode(await request.read(), type=_Asked)
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        lines: list[dict[str, object]] = [{"status": "pulling manifest"}]
        try:
            size = self._files.path_of(ModelName(asked.model)).stat().st_size
            digest = f"sha256:{'0' * 64}"
            for completed in (0, size // 2, size):
                lines.append({"status": "pulling layer", "digest": digest, "total": size, "completed": completed})
            lines.append({"status": "success"})
        except ModelNotFound:
            lines.append({"error": "pull model manifest: file does not exist"})
        for line in lines:
            await response.write(msgspec.json.encode(line) + b"\n")
        await response.write_eof()
        return response
