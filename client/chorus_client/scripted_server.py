"""A real engine process without a model: deterministic text at a set speed, and every fault on request.

It speaks the part of llama-server's HTTP dialect that the agent uses. Faults come by `--fault name=value`, by
`POST /control {"name": value}` (it needs the API key; `{}` shows what is set), or for one request by a marker in its
prompt: `[[fault crash_after=5]]`; `[[faults tps=20]]` holds from then on. Prompt tokens are counted as words.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import msgspec
from aiohttp import web

from chorus_client.lifeline import tie_to_parent
from chorus_client.scripted_answer import ScriptedAnswer, ScriptedRequest, ScriptedSettings, die_out_of_memory
from chorus_client.scripted_faults import BadFault, Faults, Health, faults_in, lasting_in, with_changes, with_faults

_SLOW_HEALTH_S = 5.0
_MIB = 1 << 20


class ScriptedServer:
    """The application's state; one per process."""

    def __init__(self, settings: ScriptedSettings, faults: Faults) -> None:
        self._settings = settings
        self._faults = faults
        self._ready_at = time.monotonic() + (faults.load_s if faults.load_s is not None else settings.load_s)
        self._free = asyncio.Semaphore(settings.slots)
        self._busy = 0
        self._leaked: list[bytearray] = []

    def application(self) -> web.Application:
        app = web.Application(client_max_size=64 * _MIB, middlewares=[self._check_key])
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/props", self._props)
        app.router.add_get("/slots", self._slots)
        app.router.add_post("/control", self._control)
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_post("/v1/completions", self._complete)
        return app

    @web.middleware
    async def _check_key(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        key = self._settings.api_key
        if key is not None and request.path != "/health" and request.headers.get("Authorization") != f"Bearer {key}":
            return _error(401, "Invalid API Key", "authentication_error")
        return await handler(request)

    @property
    def _loaded(self) -> bool:
        return time.monotonic() >= self._ready_at and not self._faults.load_stall

    async def _health(self, request: web.Request) -> web.Response:
        if self._faults.health is Health.SLOW:
            await asyncio.sleep(_SLOW_HEALTH_S)
        if self._loaded or self._faults.health is Health.LIE:
            return web.json_response({"status": "ok"})
        return _error(503, "Loading model", "unavailable_error")

    async def _models(self, request: web.Request) -> web.Response:
        rows = [{"id": self._answers_as(self._faults), "object": "model"}] if self._loaded else []
        return web.json_response({"object": "list", "data": rows})

    def _answers_as(self, faults: Faults) -> str:
        return "another-model" if faults.wrong_model else self._settings.alias

    async def _props(self, request: web.Request) -> web.Response:
        settings = {"n_ctx": self._settings.context_tokens}
        return web.json_response({"default_generation_settings": settings, "total_slots": self._settings.slots})

    async def _slots(self, request: web.Request) -> web.Response:
        rows = [{"id": n, "is_processing": n < self._busy} for n in range(self._settings.slots)]
        return web.json_response(rows)

    async def _control(self, request: web.Request) -> web.Response:
        try:
            changes = msgspec.json.decode(await request.read(), type=dict[str, object])
            self._faults = with_changes(self._faults, changes)
        except (msgspec.DecodeError, BadFault) as error:
            return _error(400, str(error), "invalid_request_error")
        return web.json_response(msgspec.to_builtins(self._faults))

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        try:
            asked = msgspec.json.decode(await request.read(), type=ScriptedRequest)
            self._faults = lasting_in(asked.words, self._faults)
            faults = faults_in(asked.words, self._faults)
        except (msgspec.DecodeError, BadFault) as error:
            return _error(400, str(error), "invalid_request_error")
        if not self._loaded:
            return _error(503, "Loading model", "unavailable_error")
        if faults.redirect:
            return web.Response(status=307, headers={"Location": "/v1/elsewhere"})
        limit = self._settings.context_tokens
        if asked.prompt_tokens >= limit:
            words = f"request ({asked.prompt_tokens} tokens) exceeds the available context size ({limit} tokens)"
            return _error(400, words, "exceed_context_size_error", n_prompt_tokens=asked.prompt_tokens, n_ctx=limit)
        await self._free.acquire()
        self._busy += 1
        freed = True
        try:
            return await self._answer(request, asked, faults)
        except asyncio.CancelledError:
            freed = not faults.ignore_cancel
            raise
        finally:
            if freed:
                self._busy -= 1
                self._free.release()

    async def _answer(self, request: web.Request, asked: ScriptedRequest, faults: Faults) -> web.StreamResponse:
        self._spend(faults)
        answer = ScriptedAnswer(asked, faults, self._settings, model=self._answers_as(faults))
        if not asked.stream:
            async for _ in answer.events():
                pass
            return web.json_response(answer.whole())
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        async for chunk in answer.events():
            await response.write(chunk)
        await response.write_eof()
        return response

    def _spend(self, faults: Faults) -> None:
        if faults.leak_mb:
            # Filled, because untouched pages would take no memory.
            self._leaked.append(bytearray(b"x" * int(faults.leak_mb * _MIB)))
        for _ in range(int(faults.log_flood * 16)):
            sys.stderr.write("\x1b[31mflood " * 5_958)


def _error(status: int, message: str, kind: str, **more: object) -> web.Response:
    return web.json_response({"error": {"code": status, "message": message, "type": kind, **more}}, status=status)


def parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(prog="chorus-scripted-server", allow_abbrev=False, description=__doc__)
    flags.add_argument("--host", default="127.0.0.1")
    flags.add_argument("--port", type=int, default=0, help="0 picks a free one")
    flags.add_argument("--alias", default="scripted")
    flags.add_argument("--api-key-file", type=Path, default=None)
    flags.add_argument("--parallel", type=int, default=4, help="slots")
    flags.add_argument("--ctx-size", type=int, default=16_384, help="tokens of all slots together")
    flags.add_argument("--ttft-s", type=float, default=0.0)
    flags.add_argument("--tokens-per-s", type=float, default=0.0, help="of each answer; 0: full speed")
    flags.add_argument("--load-s", type=float, default=0.0)
    flags.add_argument("--answer-tokens", type=int, default=32, help="length of an answer that nothing cuts")
    flags.add_argument("--fault", action="append", default=[], metavar="NAME=VALUE")
    return flags


async def serve(options: argparse.Namespace, faults: Faults) -> None:
    """Serve until SIGTERM; prints `listening URL`. Raises OSError when the port is taken."""
    key_file: Path | None = options.api_key_file
    settings = ScriptedSettings(
        alias=options.alias,
        api_key=(await asyncio.to_thread(key_file.read_text)).strip() if key_file else None,
        slots=options.parallel,
        context_tokens=options.ctx_size // options.parallel,
        ttft_s=options.ttft_s,
        tokens_per_s=options.tokens_per_s,
        load_s=options.load_s,
        answer_tokens=options.answer_tokens,
    )
    server = ScriptedServer(settings, faults)
    # A handler ends when its caller leaves: that is how a slot becomes free while the answer hangs.
    runner = web.AppRunner(server.application(), handler_cancellation=True, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, options.host, options.port)
    await site.start()
    host, port = runner.addresses[0][:2]
    print(f"listening http://{host}:{port}", flush=True)
    await asyncio.Event().wait()


def main(argv: Sequence[str] | None = None) -> int:
    tie_to_parent()
    options = parser().parse_args(argv)
    try:
        faults = with_faults(Faults(), options.fault)
    except BadFault as error:
        print(f"chorus-scripted-server: {error}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, signal.SIG_IGN if faults.ignore_sigterm else _end_at_once)
    if faults.fork_child:
        code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(3600)"
        subprocess.Popen([sys.executable, "-I", "-S", "-c", code])
    if faults.oom_at == 0:
        die_out_of_memory()
    if faults.crash_after == 0:
        print("scripted crash at the start", file=sys.stderr, flush=True)
        return faults.exit_code
    try:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(serve(options, faults))
    except OSError as error:
        print(f"chorus-scripted-server: cannot listen on {options.host}:{options.port}: {error}", file=sys.stderr)
        return 2
    return 0


def _end_at_once(_signal: int, _frame: object) -> None:
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
