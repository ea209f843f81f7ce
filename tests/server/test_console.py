from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from chorus_proto.cluster import AskEvent, AskFinished, MemberAnswer, MemberDelta, MemberStarted
from chorus_proto.errors import NoNodes
from chorus_proto.generation import Generation
from chorus_proto.ids import ModelName, NodeId
from chorus_proto.values import AggregateStrategy, ClusterState, Reassignment
from chorus_server.console import Console, Screen, registered_lines
from tests.support.fake_cluster import FakeCluster, council, ready_state

ROOT = Path(__file__).resolve().parents[2]


def converse(cluster: FakeCluster, *lines: str, screen: Screen | None = None) -> str:
    """What the console wrote over these lines and the end of the input."""
    written: list[str] = []
    waiting = list(lines)

    async def read_line(prompt: str) -> str | None:
        return waiting.pop(0) if waiting else None

    asyncio.run(Console(cluster, read_line, written.append, screen=screen).run())
    return "".join(written)


def test_a_line_is_asked_of_all_nodes_and_every_answer_the_losses_and_the_aggregate_are_shown() -> None:
    cluster = FakeCluster()
    cluster.ask_events = council()
    said = converse(cluster, "  What is the capital of France? ")
    (ask,) = cluster.asks
    assert ask.nodes == ()
    assert [m.content for m in Generation.decoded(ask.generation).messages or ()] == ["What is the capital of France?"]
    assert said.splitlines() == [
        "attic-pc (tiny:1b) is done: 0.5 s, 2 tokens, 4.0 tokens/s",
        "cellar-pc (tiny:1b) gave no answer: the node went away",
        "--- attic-pc, tiny:1b, 0.5 s, 2 tokens, 4.0 tokens/s ---",
        "é!",
        "--- longest: 1 of 1 agree (100%), 0.6 s ---",
        "é!",
    ]


def test_one_members_answer_is_not_repeated_as_an_aggregate() -> None:
    cluster = FakeCluster()
    answer = next(event for event in council() if isinstance(event, MemberAnswer))
    cluster.ask_events = [
        answer,
        AskFinished(strategy=AggregateStrategy.FIRST, text="é!", members=(answer,), seconds=0.6, agreement=1.0),
    ]
    assert converse(cluster, "ask attic-pc hello").splitlines().count("é!") == 1


def test_a_concatenation_is_not_everything_once_more() -> None:
    cluster = FakeCluster()
    *events, last = council()
    assert isinstance(last, AskFinished)
    cluster.ask_events = [*events, replace(last, strategy=AggregateStrategy.CONCAT, text="[attic-pc, tiny:1b]\né!")]
    said = converse(cluster, "hello")
    assert "concat: 1 of 1 agree" in said
    assert said.count("é!") == 1


@pytest.mark.parametrize(
    ("line", "nodes", "prompt"),
    [
        ("ask attic-pc how are you?", ("attic-pc",), "how are you?"),
        ("ASK attic-pc  attic-pc -- is a -- b?", ("attic-pc", "attic-pc"), "is a -- b?"),
        ("ask client-attic-pc-6f1d1a hello", ("client-attic-pc-6f1d1a",), "hello"),
        ("ask all quit", (), "quit"),
        ("ask all -- quit", (), "quit"),
        ("quit smoking, how?", (), "quit smoking, how?"),
        ("help me with nodes", (), "help me with nodes"),
        ("strategy for chess openings", (), "strategy for chess openings"),
    ],
)
def test_what_is_asked_and_of_whom(line: str, nodes: tuple[str, ...], prompt: str) -> None:
    cluster = FakeCluster()
    converse(cluster, line)
    (ask,) = cluster.asks
    assert ask.nodes == nodes
    assert [m.content for m in Generation.decoded(ask.generation).messages or ()] == [prompt]


def test_an_unknown_node_is_named_with_the_closest_one_and_nothing_is_asked() -> None:
    cluster = FakeCluster()
    said = converse(cluster, "ask atic-pc hello", "ask my boss for a raise")
    assert cluster.asks == []
    assert said.splitlines() == [
        "error: no node 'atic-pc'; did you mean attic-pc? To ask all of them: ask all ask atic-pc hello",
        "error: no node 'my'; nodes: attic-pc. To ask all of them: ask all ask my boss for a raise",
    ]


@pytest.mark.parametrize("line", ["ask", "ask attic-pc", "ask attic-pc -- ", "ask -- hello"])
def test_an_incomplete_ask_shows_how_it_is_used(line: str) -> None:
    assert converse(FakeCluster(), line).startswith("usage: ask NODE PROMPT")


def test_quit_and_exit_leave_and_blank_lines_do_nothing() -> None:
    for word in ("quit", "EXIT"):
        cluster = FakeCluster()
        assert converse(cluster, "", "   ", word, "never asked") == ""
        assert cluster.asks == []


def test_the_strategy_is_shown_chosen_and_used() -> None:
    cluster = FakeCluster()
    said = converse(cluster, "strategy", "strategy Vote", "strategy majority", "hello")
    assert said.splitlines() == [
        "strategy: first",
        "strategy: vote",
        "error: no strategy 'majority'; use one of first, concat, longest, vote, semantic, judge, synthesise, race",
    ]
    assert cluster.asks[0].strategy is AggregateStrategy.VOTE


def test_nodes_models_stats_reassign_and_help_are_aligned_text() -> None:
    said = converse(FakeCluster(), "nodes", "models", "stats", "reassign", "help").splitlines()
    assert said[0].split() == [
        "NODE",
        "STATE",
        "SCORE",
        "MODEL",
        "REPLICA",
        "BUSY",
        "TOK/S",
        "MEMORY",
        "FREE",
        "ADDRESS",
    ]
    assert said[1].split() == ["attic-pc", "alive", "63.0", "tiny:1b", "-", "-", "-", "-", "192.0.2.7:40000"]
    assert said[0].index("SCORE") == said[1].index("63.0")
    assert [line.split()[0] for line in said[2:5]] == ["MODEL", "tiny:1b", "org/large:8b"]
    assert "nodes             1 alive of 1" in said
    assert "attic-pc: no model -> tiny:1b (the largest that fits)" in said
    assert any(line.startswith("  ask all PROMPT") for line in said)


def test_an_empty_cluster_says_how_to_add_a_node() -> None:
    cluster = FakeCluster()
    cluster.shown_state = ClusterState(version="0", epoch=1, uptime_s=0.0)
    said = converse(cluster, "nodes", "models")
    assert said.count("chorus agent --join HOST:PORT") == 2


class Refusing(FakeCluster):
    """Every verb fails in the way given."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    async def state(self) -> ClusterState:
        raise self._error

    async def reassign(self) -> Reassignment:
        raise self._error


def test_a_refusal_is_one_line_and_the_console_goes_on() -> None:
    said = converse(Refusing(NoNodes("no node yet;\nstart one")), "nodes", "reassign")
    assert said == "error: no node yet;\\nstart one\n" * 2


def test_a_bug_is_one_line_without_a_trace_and_the_log_has_it(caplog: pytest.LogCaptureFixture) -> None:
    assert converse(Refusing(KeyError("x")), "stats") == "error: KeyError, a bug in Chorus; the log has the details\n"
    assert "Traceback" in caplog.text


def test_an_answer_cannot_drive_the_terminal() -> None:
    cluster = FakeCluster()
    evil = MemberAnswer(
        node_id=NodeId("n"), node_name="a\x1b[2Jb", model=ModelName("m"), text="one\r\ntwo\x1b]0;x\x07\tz"
    )
    cluster.ask_events = [
        evil,
        AskFinished(strategy=AggregateStrategy.FIRST, text=evil.text, members=(evil,), seconds=1.0, agreement=1.0),
    ]
    said = converse(cluster, "hello", screen=Screen(colour=False))
    assert "\x1b" not in said
    assert "\x07" not in said
    assert "one\ntwo\\x1b]0;x\\x07" in said


def test_on_a_wide_terminal_answers_grow_side_by_side_and_are_then_shown_in_full() -> None:
    cluster = FakeCluster()
    cluster.ask_events = two_growing()
    said = converse(cluster, "hello", screen=Screen(width=100, live=True, colour=True))
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said)
    assert any("attic-pc - tiny:1b" in line and "cellar-pc - tiny:1b" in line for line in drawn.splitlines())
    assert any(line.count("│") == 4 and "Paris" in line and "Lyon" in line for line in drawn.splitlines())
    assert "\x1b[1m--- attic-pc, tiny:1b" in said
    assert "is done" not in said


def two_growing() -> list[AskEvent]:
    model = ModelName("tiny:1b")
    members = [
        MemberAnswer(node_id=NodeId(name), node_name=f"{name}-pc", model=model, text=text, seconds=1.0)
        for name, text in (("attic", "Paris"), ("cellar", "Lyon"))
    ]
    return [
        *(MemberStarted(node_id=one.node_id, node_name=one.node_name, model=model) for one in members),
        *(MemberDelta(one.node_id, one.text.encode()) for one in members),
        *members,
        AskFinished(strategy=AggregateStrategy.FIRST, text="Paris", members=tuple(members), seconds=1.0, agreement=0.5),
    ]


def test_an_interrupt_cancels_the_question_and_the_next_line_is_served() -> None:
    cluster = FakeCluster()

    async def run() -> list[str]:
        cluster.ask_gate = asyncio.Event()
        written: list[str] = []
        lines = ["never ends", "stats"]

        async def read_line(prompt: str) -> str | None:
            return lines.pop(0) if lines else None

        console = Console(cluster, read_line, written.append)
        assert not console.interrupt()
        running = asyncio.create_task(console.run())
        await until(lambda: bool(cluster.asks))
        assert console.interrupt()
        assert not console.interrupt()
        assert await running is False
        return written

    written = asyncio.run(run())
    assert written[0] == "cancelled\n"
    assert "requests running" in written[1]
    assert cluster.cancelled == [cluster.asks[0].request_id]


def test_cancelling_the_console_cancels_its_question() -> None:
    cluster = FakeCluster()

    async def run() -> None:
        cluster.ask_gate = asyncio.Event()

        async def read_line(prompt: str) -> str | None:
            return "never ends"

        running = asyncio.create_task(Console(cluster, read_line, lambda _: None).run())
        await until(lambda: bool(cluster.asks))
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(run())
    assert len(cluster.cancelled) == 1


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0)


def test_a_registered_node_is_announced_as_the_seed_says() -> None:
    node = replace(ready_state().nodes[0], client_id="client-HOSTNAME-abc123", assigned_model=ModelName("llama3.2:3b"))
    node = replace(node, score=replace(node.score, score=85.0))
    assert registered_lines(node, 2) == [
        "✅ Client registered: client-HOSTNAME-abc123",
        "   Performance Score: 85.0",
        "   Assigned Model: llama3.2:3b",
        "   Total Clients: 2",
    ]
    assert registered_lines(node, 2, encoding="cp1252")[0] == "[OK] Client registered: client-HOSTNAME-abc123"
    assert registered_lines(replace(node, assigned_model=None), 2)[2] == "   Assigned Model: none"


# The real terminal, in a process of its own

PROGRAM = """
import asyncio, sys
from chorus_server.console import Console, run_terminal
from tests.support.fake_cluster import FakeCluster, council

async def main():
    cluster = FakeCluster()
    cluster.ask_events = council()
    if "--hang" in sys.argv:
        cluster.ask_gate = asyncio.Event()
    ended = await run_terminal(lambda read_line, write, screen: Console(cluster, read_line, write, screen=screen))
    print("ended:", ended, len(cluster.asks), len(cluster.cancelled))

asyncio.run(main())
"""


def piped(given: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-X", "utf8", "-c", PROGRAM],
        input=given,
        capture_output=True,
        timeout=60,
        check=True,
        cwd=ROOT,
    )


def test_piped_lines_are_answered_without_prompt_or_colour_until_the_end_of_the_input() -> None:
    done = piped("stats\r\nWas heißt Straße?\nnodes".encode())
    said = done.stdout.decode()
    assert said.endswith("ended: end_of_input 1 0" + os.linesep)
    assert "requests running" in said
    assert "192.0.2.7:40000" in said
    assert "chorus>" not in said
    assert "\x1b" not in said
    assert done.stderr == b""


def test_quit_ends_it_with_input_left_and_the_process_leaves_cleanly() -> None:
    done = piped(b"quit\n" + b"never asked\n" * 100_000)
    assert done.stdout.decode().strip() == "ended: quit 0 0"
    assert done.stderr == b""


def test_no_input_at_all_is_the_end_of_the_input() -> None:
    assert piped(b"").stdout.decode().strip() == "ended: end_of_input 0 0"


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX: a pseudo terminal")
def test_ctrl_c_on_a_terminal_cancels_the_question_and_then_leaves() -> None:
    primary, secondary = os.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen(
        [sys.executable, "-X", "utf8", "-c", PROGRAM, "--hang"],
        stdin=secondary, stdout=secondary, stderr=secondary, cwd=ROOT, env=environment, start_new_session=True,
    )  # fmt: skip
    os.close(secondary)
    said = b""

    def read_until(wanted: bytes) -> None:
        nonlocal said
        deadline_s = time.monotonic() + 30
        while wanted not in said:
            assert time.monotonic() < deadline_s, said
            said += os.read(primary, 65536)

    try:
        read_until(b"chorus> ")
        os.write(primary, b"never ends\n")
        read_until(b"no answer")
        process.send_signal(signal.SIGINT)
        read_until(b"cancelled\r\nchorus> ")
        process.send_signal(signal.SIGINT)
        read_until(b"ended: interrupted 1 1")
        assert process.wait(30) == 0
        assert b"Traceback" not in said
    finally:
        process.kill()
        process.wait()
        os.close(primary)


def test_a_cluster_without_models_is_told_how_a_node_gets_one() -> None:
    cluster = FakeCluster()
    cluster.shown_state = replace(ready_state(), models=())
    assert "--models-dirs" in converse(cluster, "models")
