"""Real processes: engines that hang, crash or do not fit beside each other, and agents that are asked to stop."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest

from chorus_client.scripted_text import scripted_text
from tests.support.patience import granted_s
from tests.whole.streams import open_stream
from tests.whole.support import Chorus, Running, chat, cluster, eventually, http

QUICK = ("--heartbeat-s=0.2", "--suspect-after-s=0.6", "--dead-after-s=2")
IMPATIENT = (
    "--first-token-least-s=0.7",
    "--next-token-least-s=0.7",
    "--prefill-assumed-tokens-per-s=1000",
    "--stop-within-s=1",
)


class Site:
    """A hub and some agents."""

    def __init__(self, chorus: Chorus) -> None:
        self.chorus = chorus
        told = chorus.up("--no-agent", *QUICK).ready()
        self.url = str(told["http_url"])
        self.join = str(told["join"])

    def agent(self, name: str, *arguments: str) -> Running:
        agent = self.chorus.agent(name, self.join, *arguments)
        agent.ready()
        return agent

    def replicas(self, name: str) -> dict[str, dict[str, object]]:
        rows = cast("list[dict[str, object]]", http(f"{self.url}/status").json()["clients"])
        node = next(row for row in rows if row["name"] == name)
        return {str(one["model"]): one for one in cast("list[dict[str, object]]", node["replicas"])}

    def state_of(self, name: str, model: str = "scripted") -> object:
        return self.replicas(name).get(model, {}).get("state")


@contextmanager
def site(folder: Path) -> Generator[Site]:
    with cluster(folder) as chorus:
        yield Site(chorus)


def content(stream_bytes: bytes) -> str:
    """The text of a streamed chat answer."""
    import json

    text = ""
    for line in stream_bytes.decode().splitlines():
        if line.startswith("data: {"):
            for choice in json.loads(line[6:]).get("choices", []):
                text += choice["delta"].get("content") or ""
    return text


def test_an_engine_that_hangs_ends_its_answer_with_an_error_and_is_replaced(tmp_path: Path) -> None:
    with site(tmp_path) as here:
        here.agent("attic", "--engines=scripted", "--scripted-tokens-per-s=20", *IMPATIENT)
        question = "hello [[fault hang_after=3 ignore_sigterm]]"
        with open_stream(here.url, "scripted", question, max_tokens=20) as stream:
            stream.read_until(b'"content"', within_s=10)
            began_s = time.monotonic()
            answer = stream.read_until(None, within_s=10)
        assert b'"code":"engine_failed"' in answer
        assert b"[DONE]" not in answer
        assert time.monotonic() - began_s < granted_s(2), "limit + 1 s, and the tokens before"
        eventually(lambda: here.state_of("attic") == "ready", within_s=15, what="the engine is replaced")
        assert chat(here.url, "scripted", "hello")


def test_a_request_whose_engine_dies_before_the_first_token_waits_for_its_restart(tmp_path: Path) -> None:
    with site(tmp_path) as here:
        agent = here.agent("attic", "--engines=scripted", "--scripted-ttft-s=1.5")
        answers: list[str] = []
        asking = threading.Thread(target=lambda: answers.append(chat(here.url, "scripted", "hello")))
        asking.start()
        eventually(lambda: here.replicas("attic")["scripted"]["slots_busy"] == 1, within_s=5, what="the request runs")
        engine = next(one for one in agent.family() if "scripted_server" in " ".join(one.cmdline()))
        engine.kill()
        asking.join(timeout=30)
        assert answers == [scripted_text("hello", 32)]


def test_a_request_that_kills_engines_is_refused_after_the_second_and_the_nodes_stay_up(tmp_path: Path) -> None:
    with site(tmp_path) as here:
        names = ("attic", "cellar", "shed")
        agents = [here.agent(name, "--engines=scripted") for name in names]

        def engines() -> set[int]:
            return {one.pid for agent in agents for one in agent.family() if "scripted_server" in str(one.cmdline())}

        def all_ready() -> bool:
            return all(here.state_of(name) == "ready" for name in names)

        eventually(all_ready, within_s=20, what="every engine runs")
        before = engines()
        poison = {"model": "scripted", "messages": [{"role": "user", "content": "[[fault crash_after=0]]"}]}
        for _ in range(2):
            reply = http(f"{here.url}/v1/chat/completions", poison)
            assert reply.status == 422, reply.body
            assert b'"code":"request_crashes_engine"' in reply.body
        eventually(all_ready, within_s=20, what="every engine is back")
        assert chat(here.url, "scripted", "hello")
        assert len(before) == 3
        assert len(before - engines()) == 2


def test_a_very_slow_prompt_is_no_hang(tmp_path: Path) -> None:
    with site(tmp_path) as here:
        here.agent("attic", "--engines=scripted", *IMPATIENT)
        words = " ".join(["word"] * 40)
        began_s = time.monotonic()
        # 40 tokens at 10 a second, told in steps of 4: no step is silent for long.
        assert chat(here.url, "scripted", f"[[fault prefill_tps=10 prefill_batch=4]] {words}")
        assert time.monotonic() - began_s > 3
        assert here.replicas("attic")["scripted"].get("restarts", 0) == 0


def test_two_callers_of_two_models_that_do_not_fit_together_are_both_served(tmp_path: Path) -> None:
    small_pc = tmp_path / "small.toml"
    small_pc.write_text(
        'os = "Linux"\narch = "x86_64"\nram_bytes = 60_000_000\nphysical_cores = 1\n'
        "memory_bandwidth_bytes_per_s = 20_000_000_000\ncpu_flops_per_s = 50_000_000_000\nbench_tokens_per_s = 1000\n"
    )
    with site(tmp_path) as here:
        flags = (f"--hardware={small_pc}", "--reserve-bytes=0", "--reserve-share=0", "--swap-after-s=1", "--threads=1")
        here.agent("attic", *flags)
        answers: dict[str, str] = {}

        def ask(model: str) -> None:
            answers[model] = chat(here.url, model, "What is the capital of France?")

        callers = [threading.Thread(target=ask, args=(model,)) for model in ("demo-tiny", "demo-medium")]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join(timeout=60)
        assert "Paris" in answers["demo-tiny"]
        assert "Paris" in answers["demo-medium"]
        assert len([one for one in here.replicas("attic").values() if one["state"] == "ready"]) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX: an agent is asked to stop by a signal")
def test_an_agent_that_is_asked_to_stop_finishes_its_answers_and_takes_no_new_ones(tmp_path: Path) -> None:
    with site(tmp_path) as here:
        agent = here.agent("attic", "--engines=scripted", "--scripted-tokens-per-s=10")
        with open_stream(here.url, "scripted", "hello", max_tokens=30) as stream:
            stream.read_until(b'"content"', within_s=10)
            agent.ask_to_stop()
            eventually(lambda: here.state_of("attic") == "unloading", within_s=5, what="its doors are closed")
            refused = http(f"{here.url}/v1/chat/completions", {**ASK, "max_tokens": 1}, within_s=10)
            assert refused.status == 503
            answer = stream.read_until(None, within_s=20)
        assert b"[DONE]" in answer
        assert content(answer) == scripted_text("hello", 30)
        assert agent.process.wait(timeout=5) == 0


ASK: dict[str, object] = {"model": "scripted", "messages": [{"role": "user", "content": "now"}]}


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX: an agent is asked to stop by a signal")
def test_an_agent_that_is_asked_twice_stops_at_once(tmp_path: Path) -> None:
    with site(tmp_path) as here:
        agent = here.agent("attic", "--engines=scripted", "--scripted-tokens-per-s=5")
        with open_stream(here.url, "scripted", "hello", max_tokens=30) as stream:
            stream.read_until(b'"content"', within_s=10)
            agent.ask_to_stop()
            eventually(lambda: here.state_of("attic") == "unloading", within_s=5, what="its doors are closed")
            agent.process.send_signal(signal.SIGTERM)
            agent.process.wait(timeout=2)
            assert b"[DONE]" not in stream.read_until(None, within_s=10)
        assert not [one for one in agent.family() if one.is_running() and one.status() != "zombie"]
