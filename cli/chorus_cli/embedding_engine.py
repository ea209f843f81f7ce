"""Runs the embedding model that comes with Chorus, in a process of its own, for the HTTP wrapper."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import secrets
import socket
import tempfile
from pathlib import Path

import aiohttp

import chorus_client
from chorus_client.process import ChildProcess, own_python
from chorus_http.rag.engine_host import Address
from chorus_proto.errors import Draining, EngineUnavailable, LoadFailed

log = logging.getLogger(__name__)

MODEL = "all-minilm-l6-v2"
FILE = Path(chorus_client.__file__).parent / "models" / "all-minilm-l6-v2-q8_0.gguf"
_TOKENS_EACH = 512
_SLOTS = 4
_START_WITHIN_S = 60.0
_FIRST_PAUSE_S, _LAST_PAUSE_S = 0.01, 0.25
_PORT_ATTEMPTS = 3
_STOP_GRACE_S = 2.0


class EmbeddingEngine:
    """See `EngineHost`. The process starts with the first text and ends with its owner."""

    def __init__(self, file: Path = FILE, *, model: str = MODEL, threads: int | None = None) -> None:
        self._file = file
        self._model = model
        # Half the cores: the agent's engines compute beside it, and llama.cpp suffers when threads wait for cores.
        self._threads = threads or max(1, (os.cpu_count() or 2) // 2)
        self._starting = asyncio.Lock()
        self._child: ChildProcess | None = None
        self._address: Address | None = None
        self._digest = ""
        self._closed = False

    async def address(self) -> Address:
        """Raises EngineUnavailable, LoadFailed; Draining once closed."""
        async with self._starting:
            if self._closed:
                raise Draining("This process is shutting down.")
            if self._child is not None and self._child.returncode is None and self._address is not None:
                return self._address
            await self._end()
            if not self._digest:
                self._digest = await asyncio.to_thread(_digest, self._file)
            self._address = await self._start()
            return self._address

    async def failed(self) -> None:
        async with self._starting:
            await self._end()

    async def close(self) -> None:
        self._closed = True
        async with self._starting:
            await self._end()

    async def _end(self) -> None:
        child, self._child, self._address = self._child, None, None
        if child is not None:
            await child.stop(grace_s=_STOP_GRACE_S)

    async def _start(self) -> Address:
        said: list[str] = []
        for _ in range(_PORT_ATTEMPTS):
            # Between the choice of a free port and the child's bind another program may take it.
            address, key = f"http://127.0.0.1:{_free_port()}", secrets.token_urlsafe(32)
            with tempfile.TemporaryDirectory(prefix="chorus-embedding-") as folder:
                key_file = _write_secret(Path(folder, "key"), key)
                try:
                    child = await ChildProcess.start(self._command(address, key_file), python_child=True)
                except OSError as error:
                    raise EngineUnavailable(f"the embedding model's process cannot be started: {error}") from None
                self._child = child
                if await _healthy(child, address, key):
                    log.info("embedding model %s answers at %s", self._model, address)
                    return Address(url=address, api_key=key, model=self._model, digest=self._digest)
            said = child.output.lines()[-4:]
            await self._end()
        raise LoadFailed(f"The embedding model {self._model} did not start: {' | '.join(said) or 'no word from it'}")

    def _command(self, address: str, key_file: Path) -> list[str]:
        return own_python(
            "chorus_client.llama_cpp_server",
            *(f"--model={self._file}", f"--port={address.rpartition(':')[2]}", f"--alias={self._model}"),
            *(f"--api-key-file={key_file}", f"--threads={self._threads}", f"--parallel={_SLOTS}", "--embedding"),
            *(f"--ctx-size={_SLOTS * _TOKENS_EACH}", f"--batch-size={_SLOTS * _TOKENS_EACH}"),
            f"--ubatch-size={_TOKENS_EACH}",
        )


async def _healthy(child: ChildProcess, address: str, key: str) -> bool:
    """True once the process answers with our key; False when it has ended or is somebody else's."""
    pause_s = _FIRST_PAUSE_S
    async with aiohttp.ClientSession(headers={"authorization": f"Bearer {key}"}) as session:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_START_WITHIN_S):
                while child.returncode is None:
                    with contextlib.suppress(aiohttp.ClientError, OSError):
                        # /health answers without a key, so a stranger on our port would pass it.
                        async with session.get(f"{address}/v1/models") as response:
                            if response.status in (401, 403):
                                return False
                            if response.status == 200 and child.returncode is None:
                                return True
                    await asyncio.sleep(pause_s)
                    pause_s = min(pause_s * 1.5, _LAST_PAUSE_S)
                await child.wait()  # for its last words
    return False


def _write_secret(path: Path, secret: str) -> Path:
    path.touch(mode=0o600)
    path.write_text(f"{secret}\n", "utf-8")
    return path


def _digest(file: Path) -> str:
    with file.open("rb") as raw:
        return hashlib.file_digest(raw, "sha256").hexdigest()  # as the nodes tell a file's


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
