"""Orders given once, their answers, and what keeps a model from being ordered again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chorus_proto.errors import ErrorCode
from chorus_proto.ids import ModelName
from chorus_proto.values import Heartbeat, ReplicaReport, ReplicaState
from chorus_server.link import AgentLink
from chorus_server.loads import ANSWERED_WITHIN_S, FORGIVEN_AFTER_S, GROWN_BYTES, TOO_BIG_FOR_S, Loads
from chorus_server.node_record import NodeRecord
from chorus_server.registry import Registry
from tests.support.clock import FakeClock
from tests.support.fake_node import hello_of

TINY = ModelName("tiny")
FAILED = ReplicaReport(model=TINY, state=ReplicaState.FAILED, detail="no such file")
TOO_BIG = replace(FAILED, failure_code=ErrorCode.INSUFFICIENT_MEMORY, detail="tiny needs 9.8 GB; free 8.6")


class Bench:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.registry = Registry(self.clock, suspect_after_s=3, dead_after_s=10)
        self.loads = Loads(self.clock, slots=4, context_tokens=2048)
        hello = hello_of("attic", models=("tiny",))
        link = AgentLink(hello.node_id, "attic", self.clock, window_bytes=1000)
        self.record: NodeRecord = self.registry.admit(hello, "10.0.0.1:5", link)

    def report(self, report: ReplicaReport) -> float | None:
        replica = self.record.replicas.get(report.model)
        before = None if replica is None else replica.report.state
        self.registry.report(self.record, report)
        return self.loads.reported(self.record, report, before)

    def fail(self, report: ReplicaReport = FAILED) -> float:
        self.report(replace(report, state=ReplicaState.LOADING))
        pause_s = self.report(report)
        assert pause_s is not None
        return pause_s

    def beat(self, free_bytes: int) -> None:
        self.registry.renew(self.record, Heartbeat(sequence=1, uptime_s=1, ram_available_bytes=free_bytes))


def test_an_order_is_pending_until_its_answer_its_link_or_its_time_ends() -> None:
    bench = Bench()
    for end in ("answer", "link", "time"):
        bench.loads.order(bench.record, TINY, keep_alive_s=None)
        assert bench.loads.pending_on(bench.record) == [TINY]
        match end:
            case "answer":
                bench.report(replace(FAILED, state=ReplicaState.LOADING))
            case "link":
                bench.loads.link_is_new(bench.record)
            case _:
                bench.clock.advance(ANSWERED_WITHIN_S)
        assert not bench.loads.pending(bench.record, TINY), end


def test_a_failed_load_is_refused_with_its_words_until_the_pause_is_over() -> None:
    bench = Bench()
    pause_s = bench.fail()
    refusal = bench.loads.refusal(bench.record, TINY)
    assert refusal is not None
    assert (refusal.code, refusal.again_in_s) == (ErrorCode.LOAD_FAILED, pytest.approx(pause_s))
    assert "no such file" in refusal.words
    bench.clock.advance(pause_s + 0.01)
    assert bench.loads.refusal(bench.record, TINY) is None


def test_an_agent_that_answers_an_order_with_the_old_failure_is_not_asked_in_a_loop() -> None:
    bench = Bench()
    bench.clock.advance(bench.fail() + 0.01)
    assert bench.report(FAILED) is None
    bench.loads.order(bench.record, TINY, keep_alive_s=None)
    assert bench.report(FAILED) is not None
    assert bench.loads.refusal(bench.record, TINY) is not None


def test_a_refusal_for_memory_lasts_until_more_is_free_and_for_placement_its_whole_time() -> None:
    bench = Bench()
    bench.beat(10**9)
    bench.clock.advance(bench.fail(TOO_BIG) + 0.01)
    refusal = bench.loads.refusal(bench.record, TINY)
    assert refusal is not None
    assert refusal.code is ErrorCode.INSUFFICIENT_MEMORY
    assert "needs 9.8 GB" in refusal.words
    bench.beat(10**9 + GROWN_BYTES)
    assert bench.loads.refusal(bench.record, TINY) is None
    assert bench.loads.is_too_big(bench.record, TINY)
    assert bench.loads.no_longer_too_big() == set()
    bench.clock.advance(TOO_BIG_FOR_S)
    assert not bench.loads.is_too_big(bench.record, TINY)
    assert bench.loads.no_longer_too_big() == {bench.record.node_id}
    assert bench.loads.no_longer_too_big() == set()


def test_a_code_of_a_newer_agent_is_a_failed_load() -> None:
    bench = Bench()
    bench.fail(replace(FAILED, failure_code="meltdown"))
    refusal = bench.loads.refusal(bench.record, TINY)
    assert refusal is not None
    assert refusal.code is ErrorCode.LOAD_FAILED


def test_a_load_that_went_well_for_long_clears_the_record() -> None:
    for well_s, forgiven in ((FORGIVEN_AFTER_S + 1, True), (FORGIVEN_AFTER_S - 1, False)):
        bench = Bench()
        for _ in range(6):
            bench.fail()
        bench.report(replace(FAILED, state=ReplicaState.READY))
        bench.clock.advance(well_s)
        pause_s = bench.report(FAILED)
        assert pause_s is not None
        assert (pause_s <= 1.5) == forgiven


def test_a_wish_is_granted_once() -> None:
    bench = Bench()
    loop = replace(FAILED, failure_code=ErrorCode.CRASH_LOOP)
    bench.fail(loop)
    assert bench.loads.refusal(bench.record, TINY) is not None
    bench.loads.wish_again([bench.record])
    assert bench.loads.refusal(bench.record, TINY) is None
    bench.loads.order(bench.record, TINY, keep_alive_s=None)
    bench.fail(loop)
    bench.clock.advance(3600)
    assert bench.loads.refusal(bench.record, TINY) is not None
