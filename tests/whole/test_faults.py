"""Plugs pulled while requests run: killed agents, frozen agents, callers who leave, a coordinator restarted."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from chorus_client.scripted_text import scripted_text
from tests.support.patience import granted_s
from tests.whole.streams import open_stream
from tests.whole.support import Chorus, Running, cluster, eventually, http

QUICK = ("--heartbeat-s=0.2", "--suspect-after-s=0.6", "--dead-after-s=2")


class Pair:
    """A hub with short leases and two agents on the scripted engine, 20 tokens a second."""

    def __init__(self, chorus: Chorus, *scripted: str) -> None:
        self.chorus = chorus
        self.scripted = scripted
        self.hub = chorus.up("--no-agent", *QUICK)
        told = self.hub.ready()
        self.url = str(told["http_url"])
        self.join = str(told["join"])
        self.agents: dict[str, Running] = {}
        for name in ("attic", "cellar"):
            self.start(name)
        for agent in self.agents.values():
            agent.ready()

    def start(self, name: str) -> Running:
        agent = self.chorus.agent(name, self.join, "--engines=scripted", *self.scripted)
        self.agents[name] = agent
        return agent

    def clients(self) -> dict[str, dict[str, object]]:
        rows = cast("list[dict[str, object]]", http(f"{self.url}/status").json()["clients"])
        return {str(row["name"]): row for row in rows}

    def state_of(self, name: str) -> object:
        return self.clients()[name]["state"]

    def busy(self) -> list[str]:
        """Nodes with a slot taken."""
        return [
            name
            for name, row in self.clients().items()
            if any(replica["slots_busy"] for replica in cast("list[dict[str, int]]", row["replicas"]))
        ]

    def serving(self) -> str:
        """The node that works on the only request."""
        return eventually(self.busy, within_s=5, what="a node takes the request")[0]

    def revive(self) -> None:
        for name, agent in list(self.agents.items()):
            if agent.process.poll() is not None:
                self.start(name).ready()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with cluster(tmp_path_factory.mktemp("pair")) as chorus:
        yield Pair(chorus, "--scripted-tokens-per-s=20", "--scripted-ttft-s=1.0")


@pytest.fixture(autouse=True)
def revived(pair: Pair) -> None:
    """Each test starts with both agents alive and idle."""
    pair.revive()
    eventually(lambda: all(pair.state_of(n) == "alive" for n in pair.agents), within_s=10, what="both are alive")
    eventually(lambda: not pair.busy(), within_s=5, what="no slot is taken")


def test_an_agent_killed_before_the_first_token_is_not_noticed_by_the_caller(pair: Pair) -> None:
    with open_stream(pair.url, "scripted", "Hello there", max_tokens=10) as stream:
        first = pair.serving()
        pair.agents[first].kill()
        stream.read_until(b"[DONE]", within_s=10)
        assert stream.status == 200
        assert stream.text == scripted_text("Hello there", 10)


def test_an_agent_killed_after_the_first_token_ends_the_stream_with_an_error_event(pair: Pair) -> None:
    with open_stream(pair.url, "scripted", "Hello there") as stream:
        stream.read_until(b'"content"', within_s=10)
        pair.agents[pair.serving()].kill()
        killed_at_s = time.monotonic()
        received = stream.read_until(None, within_s=5)
        assert stream.ended_at_s is not None
        assert stream.ended_at_s - killed_at_s <= granted_s(1.0)
        assert b'"code":"node_lost"' in received
        assert b'"partial":true' in received
        assert b"[DONE]" not in received
        assert scripted_text("Hello there", 200).startswith(stream.text.split('"error"')[0])


def test_a_killed_agent_turns_suspect_then_dead_and_leaves_no_engine_behind(pair: Pair) -> None:
    agent = pair.agents["attic"]
    engines = [member for member in agent.family() if member.pid != agent.process.pid]
    assert engines
    agent.kill()
    eventually(lambda: pair.state_of("attic") == "suspect", within_s=1, what="suspect at once")
    eventually(lambda: pair.state_of("attic") == "dead", within_s=3, what="dead when the lease ends")
    eventually(
        lambda: not any(e.is_running() and e.status() != "zombie" for e in engines), within_s=5, what="no orphan"
    )


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX: SIGSTOP freezes a process")
def test_a_frozen_agent_is_suspect_then_dead_and_comes_back_when_it_thaws(pair: Pair) -> None:
    agent = pair.agents["attic"]
    agent.process.send_signal(signal.SIGSTOP)
    try:
        eventually(lambda: pair.state_of("attic") == "suspect", within_s=2, what="suspect")
        eventually(lambda: pair.state_of("attic") == "dead", within_s=4, what="dead")
    finally:
        agent.process.send_signal(signal.SIGCONT)
    eventually(lambda: pair.state_of("attic") == "alive", within_s=10, what="back by itself")


@pytest.mark.parametrize("stream", [True, False])
def test_a_caller_who_hangs_up_frees_the_slot_within_two_seconds(pair: Pair, stream: bool) -> None:
    with open_stream(pair.url, "scripted", "Hello there", max_tokens=2000, stream=stream) as one:
        if stream:
            one.read_until(b'"content"', within_s=10)
        pair.serving()
    eventually(lambda: not pair.busy(), within_s=2, what="the slot is free")


def test_two_agents_with_one_id_leave_the_first_undisturbed(pair: Pair, tmp_path: Path) -> None:
    original = pair.chorus.state_dir / "agents" / "attic" / "node.json"
    copy = tmp_path / "agents" / "clone" / "node.json"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(original.read_bytes())
    clone = pair.chorus.start(
        "agent",
        f"--join={pair.join}",
        "--name=clone",
        "--engines=scripted",
        "--no-microbench",
        f"--state-dir={tmp_path}",
        label="clone",
    )
    eventually(lambda: "already connected from" in clone.output, within_s=15, what="the clone is told")
    assert "node.json" in clone.output
    assert clone.process.poll() is None, "it tries on: the first may leave"
    assert pair.state_of("attic") == "alive"
    clone.stop()


def test_the_coordinator_restarted_gets_its_agents_and_their_models_back(tmp_path: Path) -> None:
    with cluster(tmp_path) as chorus:
        hub = chorus.up("--no-agent", *QUICK)
        told = hub.ready()
        agent = chorus.agent("attic", str(told["join"]), "--engines=scripted")
        agent.ready()
        port = str(told["grpc_address"]).rpartition(":")[2]
        hub.kill()
        again = chorus.start("up", f"--grpc-port={port}", "--http-port=0", "--no-agent", *QUICK, label="up2")
        url = str(again.ready()["http_url"])
        eventually(lambda: http(f"{url}/readyz").status == 200, within_s=15, what="the model is there again")
        assert http(f"{url}/status").json()["epoch"] == 2
