"""`python -m chorus_client.model_server`: check the folder, listen, load beside it, serve until told to end.

Exit codes: 0 asked to end, 1 the model could not be loaded or its process died, 2 an argument or the folder must be
corrected (one line says how), 137 the process was killed, as happens when memory runs out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from aiohttp import web

from chorus_client.lifeline import tie_to_parent
from chorus_client.model_server.admission import Admission, QueueLimits
from chorus_client.model_server.app import ModelServer, Served
from chorus_client.model_server.arguments import PROGRAM, ServerOptions, read_arguments
from chorus_client.model_server.computing import Computing, killed_for_memory
from chorus_client.model_server.folder import ModelFolder, check_folder
from chorus_client.model_server.frames import Load
from chorus_proto.errors import LoadFailed

_KILLED = 137
_CLOSE_WITHIN_S = 2.0


class _Correct(Exception):
    """Something in arguments or surroundings must be corrected; the message is one line for people."""


def _keys(path: Path | None) -> list[bytes]:
    if path is None:
        return []
    try:
        keys = [line.strip() for line in path.read_bytes().splitlines() if line.strip()]
    except OSError as error:
        raise _Correct(f"cannot read the API key file {path}: {error.strerror}") from None
    if not keys:
        raise _Correct(f"the API key file {path} holds no key")
    return keys


def _context_tokens(options: ServerOptions, folder: ModelFolder) -> int:
    trained = folder.trained_context_tokens
    if options.context_tokens and trained:
        return min(options.context_tokens, trained)
    if found := options.context_tokens or trained:
        return found
    raise _Correct("config.json does not say how long the context may be; add --context-tokens")


async def serve(options: ServerOptions, folder: ModelFolder) -> int:
    """Serve until SIGTERM or SIGINT, or until the computing process ends; the exit code."""
    context_tokens = _context_tokens(options, folder)
    load = Load(
        folder=str(folder.path.resolve()),
        device_map=options.device_map,
        dtype=options.dtype,
        threads=options.threads,
        context_tokens=context_tokens,
    )
    computing = Computing(load, file_bytes=folder.file_bytes)
    limits = QueueLimits(slots=options.slots, most_waiting=options.most_waiting, within_s=options.queue_within_s)
    served = Served(
        model=options.model_name,
        context_tokens=context_tokens,
        splits_thoughts=options.splits_thoughts,
        created_unix_s=int(time.time()),
    )
    app = ModelServer(served, computing, Admission(limits)).application(_keys(options.api_key_file))
    # A handler ends when its caller leaves: that is how a slot becomes free.
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=_CLOSE_WITHIN_S)
    await runner.setup()
    try:
        await web.TCPSite(runner, options.host, options.port).start()
    except OSError as error:
        await runner.cleanup()
        raise _Correct(f"cannot listen on {options.host}:{options.port}: {error.strerror or error}") from None
    host, port = runner.addresses[0][:2]
    shown = f"[{host}]" if ":" in host else host
    print(f"listening http://{shown}:{port}", flush=True)
    try:
        return await _until_the_end(computing)
    finally:
        await runner.cleanup()


async def _until_the_end(computing: Computing) -> int:
    loop = asyncio.get_running_loop()
    asked_to_end = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        # Not loop.add_signal_handler, which Windows lacks.
        signal.signal(number, lambda _number, _frame: loop.call_soon_threadsafe(asked_to_end.set))
    await computing.start()
    following = asyncio.create_task(computing.follow(), name="follow the computing process")
    asked = asyncio.create_task(asked_to_end.wait(), name="wait to be asked to end")
    try:
        await asyncio.wait({following, asked}, return_when=asyncio.FIRST_COMPLETED)
        if asked.done():
            await computing.stop("the server was asked to end")
            await following  # so that open answers end in words
            return 0
        code = following.result()
    finally:
        await computing.stop("the server ends")
        for task in (following, asked):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
    print(f"{PROGRAM}: {computing.failure}", file=sys.stderr, flush=True)
    return _KILLED if killed_for_memory(code) else 1


def main(argv: Sequence[str] | None = None) -> int:
    tie_to_parent()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    options = read_arguments(argv)
    try:
        return asyncio.run(serve(options, check_folder(options.model_path, options.model_type)))
    except (LoadFailed, _Correct) as refusal:
        print(f"{PROGRAM}: {refusal}", file=sys.stderr, flush=True)
        return 2


if __name__ == "__main__":
    sys.exit(main())
