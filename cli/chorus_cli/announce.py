"""What people see on the terminal of the hub."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass

from chorus_cli.address import join_address, lan_address
from chorus_http.joining import Joining
from chorus_proto.exposure import is_loopback
from chorus_proto.logs import escaped
from chorus_proto.values import ClusterState, NodeState
from chorus_server.console import registered_lines
from chorus_server.events import Event, Events, NodeChanged, NodeRegistered

QUESTION = "What is the capital of France?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Where the hub answers: `host` is what it is bound to, `grpc` and `http` what this PC dials."""

    host: str
    grpc: str
    http: str
    ollama: str | None = None
    """The second address of `http`, for programs that look for Ollama."""
    keys: bool = False
    """Whether callers of `http` are asked for an API key."""

    @property
    def shown_http(self) -> str:
        """The address that people may pass on: of the LAN, once the hub is open to it."""
        return self._shown(self.http)

    @property
    def shown_ollama(self) -> str | None:
        return None if self.ollama is None else self._shown(self.ollama)

    def _shown(self, url: str) -> str:
        if is_loopback(self.host):
            return url
        port = url.rpartition(":")[2]
        return f"http://{join_address(self.host, f'{self.host}:{port}')}"

    @property
    def join(self) -> str:
        """HOST:PORT for other PCs."""
        return join_address(self.host, self.grpc)


def print_registrations(events: Events) -> Callable[[], None]:
    """Print the lines of each PC that joins, and one when it goes; returns what ends it."""

    def tell(event: Event) -> None:
        match event:
            case NodeRegistered(node=node, total_nodes=total):
                print(*registered_lines(node, total, encoding=sys.stdout.encoding), sep="\n", flush=True)
            case NodeChanged(name=name, state=NodeState.DEAD, reason=reason):
                print(escaped(f"PC {name} is gone: {reason}"), flush=True)
            case NodeChanged(name=name, state=NodeState.ASLEEP):
                print(escaped(f"PC {name} sleeps; wake it with: chorus nodes wake {name}"), flush=True)
            case _:
                return

    return events.subscribe(tell)


def joining_at(grpc: str, host: str) -> Joining:
    """How other PCs reach the coordinator at `grpc`, which is bound to `host`; for the web page of this PC."""
    lan = lan_address()
    if not is_loopback(host):
        return Joining(address=join_address(host, grpc), lan_host=lan, open=True)
    port = grpc.rpartition(":")[2]
    opening = f"./start.sh --host 0.0.0.0 --insecure --grpc-port {port}"
    return Joining(address=f"{lan}:{port}", lan_host=lan, open=False, opening=opening)


def ready_lines(version: str, state: ClusterState, model: str | None, at: Addresses) -> list[str]:
    """What to do next, once the hub answers."""
    pcs = len(state.nodes)
    what = f"{model} is ready" if model else "no model is ready yet"
    return [
        "",
        f"Chorus {version}: {what}, {pcs} PC{'' if pcs == 1 else 's'}.",
        "",
        f"  API and status  {at.shown_http} (OpenAI: {at.shown_http}/v1)",
        *([f"  Ollama's API    {at.shown_ollama} too"] if at.ollama else []),
        *join_lines(at),
        *(["  API keys        are asked for; make one: chorus keys create NAME"] if at.keys else []),
        *([f"  ask it          {sample_curl(at.http, model, key='KEY' if at.keys else '')}"] if model else []),
        "  stop            Ctrl+C",
        "",
    ]


def join_lines(at: Addresses) -> list[str]:
    """How other PCs come in."""
    if is_loopback(at.host):
        port = at.grpc.rpartition(":")[2]
        return [
            f"  more agents     on this PC: chorus agent --name NAME --join {at.grpc}",
            "  other PCs       cannot join yet: start again with --host 0.0.0.0 --insecure (no keys, no TLS: only on a",
            f"                  network you trust) and --grpc-port {port}, then on each PC:",
            f"                  chorus agent --join {lan_address()}:{port}",
        ]
    return [f"  other PCs       on each one: chorus agent --join {at.join}"]


def sample_curl(http_url: str, model: str, *, key: str = "", windows: bool = sys.platform == "win32") -> str:
    """A command that works when pasted, once `key` stands for a real one."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": QUESTION}]})
    quoted = '"' + body.replace('"', '\\"') + '"' if windows else f"'{body}'"
    kind = '"Content-Type: application/json"'
    shown = f' -H "Authorization: Bearer {key}"' if key else ""
    return f"curl {http_url}/v1/chat/completions -H {kind}{shown} -d {quoted}"
