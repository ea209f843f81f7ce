"""Files of local servers for tests: bundled engine, the smallest model, one thread, free ports."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Generator
from pathlib import Path

import psutil

from chorus_client.local_servers.records import Records
from tests.support.engines import TINY_PATH


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as open_until_all_are_known:
        sockets = [open_until_all_are_known.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def server(name: str, port: int, **more: object) -> dict[str, object]:
    return {
        "name": name,
        "llama_server_path": "bundled",
        "server_host": "127.0.0.1",
        "server_port": port,
        "gguf_file": TINY_PATH.name,
        "server_params": {"ctx-size": "2048", "parallel": 2, "threads": "1"},
    } | more


def servers_file(folder: Path, *servers: dict[str, object], **endpoint: object) -> Path:
    """Written as a person would: two spaces, a final line end."""
    path = folder / "servers.json"
    document = {"local_llm_servers": list(servers), "llm_endpoint": {"api_key": "EMPTY"} | endpoint}
    path.write_text(json.dumps(document, indent=2) + "\n", "utf-8")
    return path


@contextlib.contextmanager
def strangers_server(port: int, alias: str = "a-stranger") -> Generator[subprocess.Popen[bytes]]:
    """A llama-server that somebody else started on this port."""
    flags = ["-m", str(TINY_PATH), "--alias", alias, "--port", str(port), "--parallel", "2", "--ctx-size", "2048"]
    argv = [sys.executable, "-m", "chorus_client.llama_cpp_server", *flags, "--threads", "1", "--slots"]
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        ends_at = time.monotonic() + 20
        while not healthy(port):
            assert process.poll() is None, "the stranger's server did not start"
            assert time.monotonic() < ends_at, "the stranger's server does not answer"
            time.sleep(0.02)
        yield process
    finally:
        process.kill()
        process.wait(10)


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def healthy(port: int) -> bool:
    """The model behind the port is loaded; the port alone opens earlier."""
    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as reply:
        return reply.status == 200
    return False


def end_all(state_dir: Path) -> None:
    """End every server that a test left running under this state folder."""
    for record in Records(state_dir).all():
        keeper = record.keeper.process()
        if keeper is not None and not record.in_agent:
            family = [*keeper.children(recursive=True), keeper]
            for process in family:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(family, timeout=10)
