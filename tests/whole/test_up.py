"""`chorus up` as a person runs it: real hub, real agent, real engine."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

import pytest

from tests.whole.support import chat, cluster, eventually, http, run_chorus

NOTICED_WITHIN_S = 5.0
PARIS = "The capital of France is Paris."


def test_up_answers_a_question_with_a_real_model_and_stops_without_a_trace(tmp_path: Path) -> None:
    with cluster(tmp_path) as chorus:
        hub = chorus.up()
        ready = hub.ready()
        url, address = str(ready["http_url"]), str(ready["grpc_address"])
        assert ready["pid"] == hub.process.pid
        assert ready["join"] == address

        state = json.loads(run_chorus("status", "--json", f"--coordinator={address}").out)
        (model,) = [one["name"] for one in state["models"] if one["ready_on"]]
        assert chat(url, model, "What is the capital of France?") == PARIS
        assert http(f"{url}/health").status == 200

        output = hub.output
        assert "Client registered: " in output
        assert "Performance Score: " in output
        assert f"Assigned Model: {model}" in output
        assert "Total Clients: 1" in output
        assert f"{url}/v1/chat/completions" in output
        assert f"chorus agent --name NAME --join {address}" in output and "--host 0.0.0.0" in output
        assert "Traceback" not in output

        asked = run_chorus("ask", "--json", f"--coordinator={address}", "--", "What is the capital of France?")
        reply = json.loads(asked.out)
        assert reply["text"] == PARIS
        assert [member["text"] for member in reply["members"]] == [PARIS]

        family = hub.family()
        assert len(family) == 3, "hub, agent, engine"
        assert hub.stop() == 0, hub.output
        assert hub.family() == []
        assert not hub.ready_path.exists()
        assert list((chorus.state_dir / "run").iterdir()) == []
        assert "Traceback" not in hub.output
        assert (chorus.state_dir / "logs" / "agent.log").stat().st_size > 0


def test_a_hub_that_is_killed_leaves_neither_agent_nor_engine_behind(tmp_path: Path) -> None:
    with cluster(tmp_path) as chorus:
        hub = chorus.up("--no-microbench")
        hub.ready()
        assert len(hub.family()) == 3
        hub.kill()
        eventually(lambda: not hub.family(), within_s=NOTICED_WITHIN_S, what="agent and engine have ended")


def test_an_agent_that_is_killed_is_started_again_and_answers(tmp_path: Path) -> None:
    with cluster(tmp_path) as chorus:
        hub = chorus.up("--no-microbench")
        url = str(hub.ready()["http_url"])
        (agent,) = [one for one in hub.family() if "agent" in one.cmdline()]
        agent.kill()

        def serves_again() -> bool:
            fresh = [one for one in hub.family() if one.pid != agent.pid and "agent" in one.cmdline()]
            return bool(fresh) and http(f"{url}/v1/models").json()["data"] != []

        eventually(serves_again, within_s=20, what="a new agent serves a model")
        assert "again in 1 s" in hub.output
        assert hub.stop() == 0


def test_up_without_an_agent_waits_for_others_and_serves_them(tmp_path: Path) -> None:
    with cluster(tmp_path) as chorus:
        hub = chorus.up("--no-agent")
        ready = hub.ready()
        assert len(hub.family()) == 1
        agent = chorus.agent("attic", str(ready["join"]), "--engines=scripted")
        assert agent.ready()["join"] == ready["join"]
        nodes = json.loads(run_chorus("nodes", "--json", f"--coordinator={ready['grpc_address']}").out)
        assert [node["name"] for node in nodes] == ["attic"]
        assert agent.stop() == 0
        assert hub.stop() == 0


def test_the_http_address_can_be_a_process_of_its_own(tmp_path: Path) -> None:
    with cluster(tmp_path) as chorus:
        hub = chorus.coordinator()
        address = str(hub.ready()["grpc_address"])
        chorus.agent("attic", address, "--engines=scripted").ready()
        face = chorus.start("http", "--http-port=0", f"--coordinator={address}")
        ready = face.ready()
        assert ready["grpc_address"] == address
        assert http(f"{ready['http_url']}/v1/models").json()["data"] != []
        assert face.stop() == 0
        assert hub.stop() == 0


def test_an_http_address_whose_coordinator_is_away_refuses_politely_until_it_comes(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
    with cluster(tmp_path) as chorus:
        face = chorus.start("http", "--http-port=0", f"--coordinator=127.0.0.1:{port}")
        eventually(lambda: "waiting: " in face.output, within_s=20, what="it says that it waits")
        assert not face.ready_path.exists()
        url = face.output.split("HTTP address ")[1].split()[0]
        assert http(f"{url}/v1/models").status == 503
        hub = chorus.start("coordinator", f"--grpc-port={port}", "--no-console")
        hub.ready()
        face.ready()


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX: SIGTERM twice")
def test_a_second_signal_ends_a_hub_at_once(tmp_path: Path) -> None:
    with cluster(tmp_path) as chorus:
        hub = chorus.up("--engines=scripted", "--scripted-tokens-per-s=1")
        url = str(hub.ready()["http_url"])
        model = str(json.loads(http(f"{url}/v1/models").body)["data"][0]["id"])
        port = int(url.rpartition(":")[2])
        body = json.dumps(
            {"model": model, "stream": True, "max_tokens": 500, "messages": [{"role": "user", "content": "Go on."}]}
        ).encode()
        with socket.create_connection(("127.0.0.1", port), timeout=20) as caller:
            head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            caller.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            assert caller.recv(4096).startswith(b"HTTP/1.1 200")
            hub.family()
            hub.ask_to_stop()
            log = chorus.state_dir / "logs" / "up.log"
            eventually(lambda: "Shutting down" in log.read_text(), within_s=5, what="it drains")
            assert hub.process.poll() is None
            hub.ask_to_stop()
            assert hub.process.wait(timeout=5) == 1
        eventually(lambda: not hub.family(), within_s=NOTICED_WITHIN_S, what="agent and engine have ended")
