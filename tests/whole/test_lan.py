"""A hub that is open to the LAN, and what comes to it: PCs with and without tokens, callers with and without trust."""

from __future__ import annotations

import json
import re
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import cast

import pytest

from chorus_proto.membership import JoinToken, join_token_of, new_join_token
from chorus_proto.tls.authority import PUBLIC_FILE
from chorus_proto.tls.folder import FOLDER
from tests.whole.support import Chorus, Ended, HttpReply, Running, clean_environment, cluster, eventually, run_chorus

OPEN = ("--host=0.0.0.0", "--engines=scripted", "--no-microbench", "--backend-hosts=127.0.0.0/8")
QUICK = ("--heartbeat-s=0.2", "--suspect-after-s=0.6", "--dead-after-s=2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hub:
    """One hub on the LAN with the agent of its own PC."""

    chorus: Chorus
    process: Running
    url: str
    grpc: str
    join: str

    @classmethod
    def of(cls, chorus: Chorus, process: Running) -> Hub:
        told = process.ready()
        eventually(lambda: "Ctrl+C" in process.output, within_s=10, what="it has said all")
        return cls(
            chorus=chorus,
            process=process,
            url=str(told["http_url"]),
            grpc=str(told["grpc_address"]),
            join=str(told["join"]),
        )

    @property
    def admin_key(self) -> str:
        """As it was printed."""
        return re.findall(r"chorus_[0-9a-f]{8}_[\w-]{43}", self.process.output)[0]

    @property
    def printed_token(self) -> JoinToken:
        return eventually(lambda: token_in(self.process.output), within_s=10, what="it prints how others join")

    @property
    def own(self) -> tuple[str, str]:
        """The flags of commands on the hub's own PC."""
        return f"--coordinator={self.grpc}", f"--state-dir={self.chorus.state_dir}"

    def ask(
        self,
        path: str,
        *,
        key: str = "",
        body: dict[str, object] | None = None,
        headers: dict[str, str] | None = None,
    ) -> HttpReply:
        """As a caller who trusts the hub's authority."""
        trust = ssl.create_default_context(cafile=self.chorus.state_dir / FOLDER / PUBLIC_FILE)
        told = {"Content-Type": "application/json", **(headers or {})}
        if key:
            told["Authorization"] = f"Bearer {key}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data=data, headers=told)
        try:
            with urllib.request.urlopen(request, timeout=20, context=trust) as reply:
                return HttpReply(status=reply.status, body=reply.read())
        except urllib.error.HTTPError as error:
            with error:
                return HttpReply(status=error.code, body=error.read())

    def command(self, *arguments: str) -> Ended:
        """A command on the hub's own PC."""
        return run_chorus(*arguments, *self.own)

    def nodes(self) -> dict[str, str]:
        """State by name."""
        found = cast("list[dict[str, str]]", json.loads(self.command("nodes", "--json").out))
        return {node["name"]: node["state"] for node in found}

    def agent(self, name: str, *arguments: str, token: str = "") -> Running:
        """On a PC with a state folder of its own."""
        elsewhere = f"--state-dir={self.chorus.folder / name}"
        environment = {"CHORUS_JOIN_TOKEN": token} if token else {}
        return self.chorus.agent(name, self.join, "--engines=scripted", elsewhere, *arguments, **environment)


def token_in(text: str) -> JoinToken | None:
    """The first one; None before it is printed."""
    found = re.search(r"chorus1\.[0-9a-f]{64}\.\w{6}\.\w{26}", text)
    return None if found is None else join_token_of(found[0])


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with cluster(tmp_path_factory.mktemp("lan")) as chorus:
        yield Hub.of(chorus, chorus.up(*OPEN, *QUICK))


def test_one_flag_opens_it_and_says_what_others_need(hub: Hub) -> None:
    assert hub.url.startswith("https://") and "--insecure" not in hub.process.output
    assert f"| chorus agent --join {hub.join} --join-token-file -" in hub.process.output
    assert hub.printed_token.fingerprint in hub.process.output.replace(hub.printed_token.text, "")
    assert "Authorization: Bearer KEY" in hub.process.output and "--cacert" in hub.process.output


def test_callers_need_the_authority_and_a_key(hub: Hub) -> None:
    question: dict[str, object] = {"model": "scripted", "messages": [{"role": "user", "content": "hi"}]}
    assert hub.ask("/health").status == 200
    assert hub.ask("/v1/chat/completions", body=question).status == 401
    assert hub.ask("/v1/chat/completions", body=question, key=hub.admin_key).status == 200
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
        urllib.request.urlopen(f"{hub.url}/health", timeout=20)
    plain = hub.url.replace("https:", "http:")
    with pytest.raises((urllib.error.URLError, ConnectionError, OSError)):
        urllib.request.urlopen(f"{plain}/health", timeout=20)


def test_the_openai_client_needs_no_more_than_the_authority_in_its_environment(hub: Hub) -> None:
    program = (
        "import sys, openai; client = openai.OpenAI(base_url=sys.argv[1], max_retries=0); "
        "print([model.id for model in client.models.list()])"
    )

    trust = str(hub.chorus.state_dir / FOLDER / PUBLIC_FILE)
    ended = subprocess.run(
        [sys.executable, "-c", program, f"{hub.url}/v1"],
        env=clean_environment(OPENAI_API_KEY=hub.admin_key, SSL_CERT_FILE=trust),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert "scripted" in ended.stdout, ended.stderr


@pytest.mark.parametrize(
    ("headers", "method", "status"),
    [
        ({"Host": "evil.example"}, "GET", 400),
        ({"Host": "evil.example"}, "POST", 400),
        ({"Origin": "https://evil.example"}, "POST", 403),
        ({"Origin": "null"}, "POST", 403),
    ],
)
def test_names_and_pages_of_others_are_refused_on_the_lan_as_well_even_with_a_key(
    hub: Hub, headers: dict[str, str], method: str, status: int
) -> None:
    body: dict[str, object] | None = {} if method == "POST" else None
    assert hub.ask("/reassign", key=hub.admin_key, body=body, headers=headers).status == status


def test_a_pc_comes_in_by_the_printed_token_once_and_is_cut_off_when_it_is_revoked(hub: Hub, tmp_path: Path) -> None:
    token = hub.printed_token
    file = tmp_path / "token"
    file.write_text(f"{token.text}\n", encoding="utf-8")
    attic = hub.agent("attic", f"--join-token-file={file}")
    attic.ready()
    assert hub.nodes()["attic"] == "alive"
    (member,) = [one for one in json.loads(hub.command("members", "--json").out) if one["name"] == "attic"]
    assert member["token_id"] == token.token_id and member["revoked_unix_s"] is None

    second = hub.agent("second", token=token.text)
    assert second.process.wait(timeout=40) == 2 and "used up" in second.output

    assert hub.command("members", "revoke", "attic").code == 0
    assert attic.process.wait(timeout=20) == 2 and "chorus join-token create" in attic.output
    eventually(lambda: hub.nodes().get("attic") != "alive", within_s=10, what="the revoked PC is gone")

    made = json.loads(hub.command("join-token", "create", "--json", "--uses=2").out)
    again = hub.agent("attic", token=str(made["token"]))
    again.ready()
    assert hub.nodes()["attic"] == "alive"
    assert "for each of" not in hub.command("join-token", "list").out
    assert hub.command("join-token", "revoke", str(made["token_id"])).code == 0
    again.stop()


def test_a_pc_that_is_sent_to_the_wrong_hub_or_has_no_token_is_told_so(hub: Hub) -> None:
    wrong = hub.agent("wrong", token=new_join_token("ab" * 32).text)
    none = hub.agent("none")
    assert wrong.process.wait(timeout=40) == 2 and "another hub" in wrong.output
    eventually(lambda: "chorus join-token create" in none.output, within_s=40, what="it says what it needs")
    none.stop()
    assert not set(hub.nodes()) & {"wrong", "none"}
    typo = run_chorus("agent", f"--join={hub.join}", f"--state-dir={hub.chorus.folder / 'typo'}", CHORUS_JOIN_TOKEN="x")
    assert typo.code == 2 and "no join token" in typo.err


def test_other_pcs_ask_by_fingerprint_and_key_and_a_wrong_fingerprint_asks_nobody(hub: Hub, tmp_path: Path) -> None:
    fingerprint = hub.printed_token.fingerprint
    flags = ("nodes", "--json", f"--coordinator={hub.join}", f"--state-dir={tmp_path}")
    asked = run_chorus(*flags, f"--coordinator-ca={fingerprint}", CHORUS_API_KEY=hub.admin_key)
    assert asked.code == 0 and json.loads(asked.out)
    for wrong in ("ab" * 32, "rubbish"):
        ended = run_chorus(*flags, f"--coordinator-ca={wrong}", CHORUS_API_KEY=hub.admin_key)
        assert ended.code != 0 and not ended.out
    bare = run_chorus(*flags, CHORUS_API_KEY=hub.admin_key)
    assert bare.code == 1 and "speaks TLS" in bare.err and "--coordinator-ca" in bare.err


def test_an_http_address_on_another_pc_verifies_its_hub_too(hub: Hub, tmp_path: Path) -> None:
    flags = ("--http-port=0", f"--coordinator={hub.join}", "--require-keys", f"--state-dir={tmp_path / 'front'}")
    front = hub.chorus.start(
        "http",
        *flags,
        f"--coordinator-ca={hub.printed_token.fingerprint}",
        label="front",
        CHORUS_API_KEY=hub.admin_key,
    )
    url = str(front.ready()["http_url"])
    request = urllib.request.Request(f"{url}/v1/models", headers={"Authorization": f"Bearer {hub.admin_key}"})
    with urllib.request.urlopen(request, timeout=20) as reply:
        assert reply.status == 200 and b"scripted" in reply.read()
    front.stop()
    wrong = run_chorus("http", *flags[:-1], f"--state-dir={tmp_path / 'wrong'}", f"--coordinator-ca={'ab' * 32}")
    assert wrong.code == 2 and "another hub" in wrong.err


class _OneModel(BaseHTTPRequestHandler):
    """Enough of OpenAI's API to be a backend."""

    def do_GET(self) -> None:
        body = b'{"object": "list", "data": [{"id": "far-away", "object": "model"}]}'
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on the terminal."""


def test_a_backend_in_a_listed_network_becomes_a_node_of_an_encrypted_hub(hub: Hub) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _OneModel) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        made = hub.command("backends", "register", "far", f"http://127.0.0.1:{server.server_port}")
        assert made.code == 0, made.err
        eventually(lambda: hub.nodes().get("far") == "alive", within_s=20, what="the backend has joined")
        assert hub.command("backends", "unregister", "far").code == 0
        server.shutdown()


def test_no_secret_stands_in_a_log_or_in_a_command_line(hub: Hub) -> None:
    secrets = [hub.admin_key[-43:], hub.printed_token.secret]
    lines = [word for member in hub.process.family() for word in member.cmdline()]
    logs = [path.read_text(encoding="utf-8", errors="replace") for path in hub.chorus.folder.rglob("*.log")]
    kept = [json.loads(path.read_bytes())["secret"] for path in hub.chorus.folder.rglob("hub.json")]
    assert logs and kept
    assert not [one for one in (*secrets, *kept) for text in (*lines, *logs) if one in text]


def test_after_a_restart_the_members_come_back_by_themselves(tmp_path: Path) -> None:
    with cluster(tmp_path) as chorus:
        fixed = ("--host=0.0.0.0", "--no-console", *QUICK)
        first = chorus.start("coordinator", "--grpc-port=0", *fixed, label="first")
        told = first.ready()
        join, grpc = str(told["join"]), str(told["grpc_address"])
        token = eventually(lambda: token_in(first.output), within_s=10, what="it prints how others join")
        elsewhere = f"--state-dir={tmp_path / 'attic'}"
        chorus.agent("attic", join, "--engines=scripted", elsewhere, CHORUS_JOIN_TOKEN=token.text).ready()
        assert first.stop() == 0
        port = join.rpartition(":")[2]
        second = chorus.start("coordinator", f"--grpc-port={port}", *fixed, label="second")
        second.ready()
        printed = eventually(lambda: token_in(second.output), within_s=10, what="it prints how others join")
        assert printed.fingerprint == token.fingerprint
        assert "admin key" in first.output and "admin key" not in second.output

        def back() -> bool:
            nodes = run_chorus("nodes", "--json", f"--coordinator={grpc}", f"--state-dir={chorus.state_dir}")
            return '"alive"' in nodes.out

        eventually(back, within_s=20, what="the PC is linked again")
