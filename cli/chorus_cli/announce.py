"""What people see on the terminal of the hub."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from chorus_cli.address import join_address, lan_address
from chorus_http.joining import Joining, TokenDesk
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
    ca_file: Path | None = None
    """The certificate that callers must trust; None: in clear, or with a certificate that they trust anyway."""
    own_certificate: bool = False
    """Its owner brought the certificate of `http`."""
    fingerprint: str = ""
    """SHA-256 of the authority; empty: not encrypted."""
    admin_key: str = field(default="", repr=False)
    """The first key, which is shown once."""
    join_token: str = field(default="", repr=False)
    """Admits one PC, for an hour."""

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
        scheme, port = url.partition(":")[0], url.rpartition(":")[2]
        return f"{scheme}://{join_address(self.host, f'{self.host}:{port}')}"

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


def joining_at(grpc: str, host: str, *, tokens: TokenDesk | None) -> Joining:
    """How other PCs reach the coordinator at `grpc`, which is bound to `host`; for the web page of this PC.

    `tokens`: where those are made that it asks PCs for; None: it asks for none.
    """
    lan = lan_address()
    if not is_loopback(host):
        return Joining(address=join_address(host, grpc), lan_host=lan, open=True, tokens=tokens)
    port = grpc.rpartition(":")[2]
    opening = f"./start.sh --host 0.0.0.0 --grpc-port {port}"
    return Joining(address=f"{lan}:{port}", lan_host=lan, open=False, opening=opening)


def ready_lines(version: str, state: ClusterState, model: str | None, at: Addresses) -> list[str]:
    """What to do next, once the hub answers."""
    pcs = len(state.nodes)
    what = f"{model} is ready" if model else "no model is ready yet"
    return [
        "",
        f"Chorus {version}: {what}, {pcs} PC{'' if pcs == 1 else 's'}.",
        "",
        f"  web page        {at.shown_http}",
        f"  API and status  {at.shown_http} (OpenAI: {at.shown_http}/v1)",
        *([f"  Ollama's API    {at.shown_ollama} too"] if at.ollama else []),
        *join_lines(at),
        *credential_lines(at),
        *([f"  ask it          {_sample(at, model)}"] if model else []),
        "  stop            Ctrl+C",
        "",
    ]


def credential_lines(at: Addresses) -> list[str]:
    """What callers need."""
    lines: list[str] = []
    if at.ca_file is not None:
        lines = [
            f"  certificate     {at.ca_file}, for callers: they get it at {at.shown_http}/join/ca",
            f"                  and compare its SHA-256: {at.fingerprint}",
        ]
    if at.admin_key:
        lines += [
            f"  admin key       {at.admin_key}",
            "                  it is shown this once; others, with fewer rights: chorus keys create NAME",
        ]
    elif at.keys:
        lines += ["  API keys        are asked for; make one: chorus keys create NAME"]
    return lines


def _sample(at: Addresses, model: str) -> str:
    return sample_curl(at.http, model, key="KEY" if at.keys else "", ca_file=at.ca_file)


def join_lines(at: Addresses) -> list[str]:
    """How other PCs come in."""
    if is_loopback(at.host):
        port = at.grpc.rpartition(":")[2]
        return [
            f"  more agents     on this PC: chorus agent --name NAME --join {at.grpc}",
            f"  other PCs       cannot join yet: start again with --host 0.0.0.0 --grpc-port {port}; it then says what",
            "                  to run on them (encrypted, with keys; nobody gets in without)",
        ]
    if at.join_token:
        return [
            "  other PCs       run this on one, within an hour (for more: chorus join-token create):",
            f"                  {join_command(at.join, at.join_token)}",
        ]
    if at.fingerprint:
        return ["  other PCs       join with a token, make one: chorus join-token create"]
    return [f"  other PCs       on each one: chorus agent --join {at.join}"]


def join_command(address: str, token: str) -> str:
    """For sh, PowerShell and Windows' cmd alike. The token goes in by the pipe: other users see command lines."""
    return f"echo {token} | chorus agent --join {address} --join-token-file -"


def sample_curl(
    http_url: str, model: str, *, key: str = "", ca_file: Path | None = None, windows: bool = sys.platform == "win32"
) -> str:
    """A command that works when pasted, once `key` stands for a real one."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": QUESTION}]})
    quoted = '"' + body.replace('"', '\\"') + '"' if windows else f"'{body}'"
    kind = '"Content-Type: application/json"'
    shown = f' -H "Authorization: Bearer {key}"' if key else ""
    if ca_file is not None:
        shown = f' --cacert "{ca_file}"{shown}'
    return f"curl {http_url}/v1/chat/completions -H {kind}{shown} -d {quoted}"
