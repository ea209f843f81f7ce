"""The gateways that `bench.gateway` compares: each pinned to one core, in front of the same engine.

The peers are no dependencies of Chorus: `install` puts them into a folder that can be thrown away, and one that is not
there is left out, which the report says.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.mock_engine import MODEL
from bench.processes import cluster_of

PROXY_CORE = 0
OTHER_CORE = 1
"""Everything else is there: client, engine and, for Chorus, the agent, which in a real cluster is another PC."""

PYPI_PEERS = ("litellm[proxy]", "fastapi", "httpx", "uvicorn[standard]", "sglang-router")
CHORUS, CHORUS_BACKEND = "Chorus", "Chorus, engine as backend"
LITELLM, PLAIN, NGINX, SGLANG = "LiteLLM", "FastAPI + httpx", "nginx", "sglang-router"
PEERS = (LITELLM, PLAIN, NGINX, SGLANG)

_READY_WITHIN_S = 120.0

_NGINX_CONF = """\
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections 2048; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  keepalive_requests 1000000;
  proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
  upstream engine {{ server {engine}; keepalive 256; keepalive_requests 1000000; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{ proxy_pass http://engine; }}
  }}
}}
"""

_LITELLM_CONF = """\
model_list:
  - model_name: {model}
    litellm_params: {{ model: openai/{model}, api_base: "{engine_url}/v1", api_key: none }}
litellm_settings: {{ telemetry: false }}
"""

_LITELLM_ENVIRONMENT = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it asks the internet first
    "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",  # Chorus asks for no key on loopback either
    "LITELLM_LOG": "ERROR",
}


class NotThere(Exception):
    """This gateway cannot be compared here; the message says why."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """One that runs. `process` and all its children are the gateway."""

    name: str
    url: str
    process: psutil.Process
    agent: psutil.Process | None = None
    """Chorus's on the PC of the engine: counted apart."""

    def cpu_s(self) -> float:
        return family_cpu_s(self.process)


def family_cpu_s(process: psutil.Process) -> float:
    """CPU seconds of a process and its children so far. Linux counts a process's threads too, dead ones included."""
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def install(folder: Path) -> None:
    """Peers from PyPI into a venv under `folder`; nginx unpacked from the distribution's package where there is apt."""
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    for peer in PYPI_PEERS:
        if subprocess.run([_venv(folder) / "pip", "install", "--quiet", peer]).returncode:
            print(f"{peer} could not be installed")
    if shutil.which("nginx") is None and shutil.which("apt-get") is not None:
        unpacked = folder / "nginx"
        unpacked.mkdir(parents=True, exist_ok=True)
        if not subprocess.run(["apt-get", "download", "nginx"], cwd=unpacked).returncode:
            subprocess.run(["dpkg", "-x", *unpacked.glob("nginx_*.deb"), unpacked], check=True)


def _venv(folder: Path) -> Path:
    return folder.resolve() / "venv" / ("Scripts" if sys.platform == "win32" else "bin")


def pin_this_process() -> None:
    """And all that it starts from now on, unless they say otherwise."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {OTHER_CORE})


def pinned(*command: str | Path) -> list[str]:
    """The command on the proxy's core with all its threads, where the system can do that."""
    prefix = ["taskset", "-c", str(PROXY_CORE)] if shutil.which("taskset") else []
    return [*prefix, *map(str, command)]


@contextmanager
def engine(*flags: str) -> Generator[str]:
    """A mock engine; its URL."""
    process = subprocess.Popen([sys.executable, "-m", "bench.mock_engine", *flags], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split()[1]
    finally:
        process.terminate()
        process.wait(timeout=30)


@contextmanager
def gateway(name: str, engine_url: str, peers: Path, folder: Path) -> Generator[Gateway]:
    """Start one; ended with the block. Raises NotThere."""
    if name == CHORUS:
        agent = (f"--remote-url={engine_url}", "--engines=remote")
        with cluster_of(folder, {"pc": agent}, "--slots=1024", prefix=pinned()) as up:
            yield Gateway(name, up.http_url, up.hub, up.agents[0])
        return
    if name == CHORUS_BACKEND:
        allowed = f"--backend-hosts={engine_url.removeprefix('http://')}"
        with cluster_of(folder, {}, "--slots=1024", allowed, prefix=pinned()) as up:
            _register(up.http_url, engine_url)
            yield Gateway(name, up.http_url, up.hub)
        return
    port = _free_port()
    command = _command(name, engine_url, port, peers, folder)
    with (folder / "output.txt").open("wb") as output:
        process = subprocess.Popen(
            pinned(*command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=os.environ | _LITELLM_ENVIRONMENT,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_answering(name, url, process, folder / "output.txt")
        yield Gateway(name, url, psutil.Process(process.pid))
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _command(name: str, engine_url: str, port: int, peers: Path, folder: Path) -> Sequence[str | Path]:
    tools = _venv(peers)
    match name:
        case "nginx":
            found = shutil.which("nginx") or peers.resolve() / "nginx" / "usr" / "sbin" / "nginx"
            config = folder / "nginx.conf"
            config.write_text(_NGINX_CONF.format(folder=folder, engine=engine_url.removeprefix("http://"), port=port))
            command: Sequence[str | Path] = (found, "-c", config, "-p", folder)
        case "LiteLLM":
            config = folder / "litellm.yaml"
            config.write_text(_LITELLM_CONF.format(model=MODEL, engine_url=engine_url))
            command = (tools / "litellm", "--config", config, "--host=127.0.0.1", f"--port={port}", "--num_workers=1")
        case "sglang-router":
            where = ("--host=127.0.0.1", f"--port={port}", f"--prometheus-port={_free_port()}")
            command = (tools / "sglang-router", "launch", *where, "--policy=round_robin", "--log-level=warn")
            command = (*command, "--worker-urls", engine_url)
        case _:
            command = (tools / "python", Path(__file__).with_name("plain_proxy.py"), engine_url, str(port))
    if not Path(command[0]).exists():
        raise NotThere(f"{command[0]} is missing; --install fetches it")
    return command


def _wait_until_answering(name: str, url: str, process: subprocess.Popen[bytes], output: Path) -> None:
    """A whole answer came through. Raises NotThere."""
    asked = f'{{"model":"{MODEL}","messages":[{{"role":"user","content":"tokens=1"}}]}}'.encode()
    headers = {"Content-Type": "application/json"}
    ends_at = time.monotonic() + _READY_WITHIN_S
    while time.monotonic() < ends_at and process.poll() is None:
        try:
            with urllib.request.urlopen(
                urllib.request.Request(f"{url}/v1/chat/completions", asked, headers), timeout=10
            ):
                return
        except OSError:
            time.sleep(0.2)
    raise NotThere(f"{name} did not answer: {output.read_text(errors='replace')[-500:]}")


def _register(url: str, engine_url: str) -> None:
    body = f'{{"name":"mock","url":"{engine_url}","slots":1024}}'.encode()
    headers = {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(f"{url}/backends/register", body, headers), timeout=30):
        pass


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
