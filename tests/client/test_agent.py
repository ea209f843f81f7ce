"""What the agent does with orders; the uplink is real, the engine is the test's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace

from chorus_client.agent import Agent, Identity
from chorus_client.answer_writer import PAYLOAD_BYTES
from chorus_client.engines.base import LoadOptions
from chorus_client.hardware import LiveReader
from chorus_client.link import Uplink
from chorus_client.orders import ExecuteOrder
from chorus_client.pool import Pool
from chorus_proto import common_pb2, node_pb2
from chorus_proto.generation import Generation
from chorus_proto.ids import ExecutionId, InstanceId, ModelName, NodeId, RequestId
from chorus_proto.values import Courtesy, Dialect, EngineKind, Hardware, ReplicaReport, ReplicaState, Welcome
from tests.support.clock import FakeClock
from tests.support.fake_engine import FakeEngine
from tests.support.open_gate import open_gate

ECHO = ModelName("echo")
WELCOME = Welcome(protocol=1, epoch=1, lease_s=10, heartbeat_s=1, version="0.1.0")


class Bench:
    """An agent with its model loaded and linked; `frames` reads what it sends."""

    def __init__(self) -> None:
        self.engine = FakeEngine()
        hardware = Hardware(os="linux", arch="x86_64")
        clock = FakeClock()
        self.fenced = False
        self.pool = Pool({EngineKind.SCRIPTED: self.engine}, clock, self._tell, open_gate())
        self.agent = Agent(
            Identity(node_id=NodeId("n"), instance_id=InstanceId("i"), name="attic"),
            hardware,
            self.pool,
            clock,
            readings=LiveReader(hardware),
            fenced=lambda: self.fenced,
        )
        self.uplink = Uplink(self.agent.hello())
        self._batches = self.uplink.outbox.batches()
        self._pending: list[node_pb2.AgentFrame] = []

    def _tell(self, report: ReplicaReport) -> None:
        self.agent.replica_changed(report)

    async def start(self) -> None:
        await self.agent.prepare((EngineKind.SCRIPTED,))
        self.pool.load(ECHO, LoadOptions(slots=2, context_tokens=512))
        while not any(report.state is ReplicaState.READY for report in self.pool.reports()):
            await asyncio.sleep(0)
        self.agent.linked(self.uplink, WELCOME)

    async def next(self, *kinds: str) -> node_pb2.AgentFrame:
        """The next frame of one of these kinds; others are skipped."""
        async with asyncio.timeout(5):
            while True:
                while self._pending:
                    frame = self._pending.pop(0)
                    if frame.WhichOneof("kind") in kinds:
                        return frame
                self._pending = list(await anext(self._batches))

    async def answer(self, execution_id: int) -> tuple[str, node_pb2.AgentFrame]:
        """The text up to the end of this execution, and the frame that ended it."""
        text = ""
        while True:
            frame = await self.next("output", "finished", "failed")
            if frame.WhichOneof("kind") == "output" and frame.output.execution_id == execution_id:
                text += frame.output.payload.decode()
            elif frame.WhichOneof("kind") != "output":
                return text, frame


def order(
    prompt: str,
    *,
    execution_id: int = 1,
    model: str = "echo",
    window_bytes: int = 1000,
    dialect: Dialect | None = Dialect.TEXT,
    generation: bytes | None = None,
    within_s: float = 5.0,
) -> ExecuteOrder:
    return ExecuteOrder(
        execution_id=ExecutionId(execution_id),
        request_id=RequestId("r"),
        model=ModelName(model),
        dialect=dialect,
        stream=True,
        generation=generation if generation is not None else Generation(prompt=prompt).encoded(),
        within_s=within_s,
        created_unix_s=0,
        window_bytes=window_bytes,
    )


def play(scenario: Callable[[Bench], Awaitable[None]]) -> None:
    async def run() -> None:
        bench = Bench()
        await bench.start()
        await scenario(bench)
        await bench.agent.aclose()
        await bench.pool.aclose()

    asyncio.run(run())


def test_an_order_is_answered_with_text_counts_and_times() -> None:
    async def scenario(bench: Bench) -> None:
        bench.agent.execute(order("one two three"))
        text, end = await bench.answer(1)
        assert text == "onetwothree"
        assert end.finished.finish_reason == "stop"
        assert end.finished.usage.completion_tokens == 3

    play(scenario)


def test_a_whole_body_larger_than_a_frame_arrives_in_pieces() -> None:
    async def scenario(bench: Bench) -> None:
        words = " ".join("x" * 1000 for _ in range(300))
        bench.agent.execute(replace(order(words, window_bytes=10_000_000, dialect=Dialect.OPENAI_CHAT), stream=False))
        text, end = await bench.answer(1)
        assert len(end.finished.payload) <= PAYLOAD_BYTES
        body = json.loads(text + end.finished.payload.decode())
        assert body["choices"][0]["message"]["content"] == "x" * 300_000

    play(scenario)


def test_a_cancelled_order_stops_the_engine() -> None:
    async def scenario(bench: Bench) -> None:
        bench.engine.loads[0].hold.clear()
        bench.agent.execute(order("one two"))
        while not bench.engine.loads[0].generating:
            await asyncio.sleep(0)
        bench.agent.cancel(1)
        while bench.engine.loads[0].generating:
            await asyncio.sleep(0)

    play(scenario)


def test_a_lost_link_stops_every_running_order() -> None:
    async def scenario(bench: Bench) -> None:
        bench.engine.loads[0].hold.clear()
        for execution_id in (1, 2):
            bench.agent.execute(order("one two", execution_id=execution_id))
        while bench.engine.loads[0].generating < 2:
            await asyncio.sleep(0)
        bench.agent.unlinked()
        while bench.engine.loads[0].generating:
            await asyncio.sleep(0)

    play(scenario)


def test_an_answer_pauses_until_its_reader_has_read() -> None:
    async def scenario(bench: Bench) -> None:
        bench.agent.execute(order("12345 67890 abcde", window_bytes=8))
        first = await bench.next("output")
        assert first.output.payload == b"1234567890"
        bench.agent.execute(order("other", execution_id=2))
        assert (await bench.next("finished")).finished.execution_id == 2
        bench.agent.credit(1, 100)
        assert (await bench.next("finished")).finished.execution_id == 1

    play(scenario)


def test_what_cannot_be_done_is_answered_with_its_code() -> None:
    async def scenario(bench: Bench) -> None:
        for number, (wrong, code) in enumerate(
            (
                (order("x", execution_id=11, model="parrot"), "load_failed"),
                (order("x", execution_id=12, dialect=None), "unsupported"),
                (order("x", execution_id=13, generation=b"{"), "invalid_request"),
            )
        ):
            bench.agent.execute(wrong)
            _, end = await bench.answer(11 + number)
            assert (end.failed.execution_id, end.failed.failure.code) == (11 + number, code)

    play(scenario)


def test_an_engine_that_dies_fails_the_order() -> None:
    async def scenario(bench: Bench) -> None:
        bench.engine.loads[0].hold.clear()
        bench.agent.execute(order("one two"))
        while not bench.engine.loads[0].generating:
            await asyncio.sleep(0)
        bench.engine.loads[0].closed.set()
        bench.engine.loads[0].hold.set()
        _, end = await bench.answer(1)
        assert end.failed.failure.code == "engine_failed"

    play(scenario)


def test_a_request_out_of_time_ends_with_a_deadline() -> None:
    async def scenario(bench: Bench) -> None:
        bench.engine.loads[0].hold.clear()
        bench.agent.execute(order("one", within_s=0.02))
        _, end = await bench.answer(1)
        assert end.failed.failure.code == "deadline_exceeded"

    play(scenario)


def test_an_agent_whose_lease_ran_out_takes_nothing() -> None:
    async def scenario(bench: Bench) -> None:
        bench.fenced = True
        bench.agent.execute(order("one"))
        _, end = await bench.answer(1)
        assert end.failed.failure.code == "node_lost"
        assert bench.engine.loads[0].generating == 0

    play(scenario)


def test_what_changed_while_the_introduction_was_on_its_way_is_told_on_the_new_link() -> None:
    async def scenario(bench: Bench) -> None:
        bench.agent.unlinked()
        bench.agent.hello()
        bench.pool.unload(ECHO, drain_s=1)
        while bench.pool.reports():
            await asyncio.sleep(0)
        bench.agent.linked(bench.uplink, WELCOME)
        states: list[int] = []
        while not states or states[-1] != common_pb2.REPLICA_STATE_GONE:
            states.append((await bench.next("replica")).replica.state)

    play(scenario)


def test_what_the_owner_wants_is_told_at_once_and_again_on_each_new_link() -> None:
    async def scenario(bench: Bench) -> None:
        assert not (await bench.next("courtesy")).courtesy.paused, "on the link that has just begun"
        bench.agent.be_polite(Courtesy(paused=True, reason="on battery, 20 %"))
        told = (await bench.next("courtesy")).courtesy
        assert (told.paused, told.reason) == (True, "on battery, 20 %")
        bench.agent.unlinked()
        few = Courtesy(slots=1, reason="other programs use 80 % of the CPU")
        bench.agent.be_polite(few)
        assert bench.agent.hello().courtesy == few

    play(scenario)


def test_models_are_freed_for_the_owner_with_his_reason() -> None:
    async def scenario(bench: Bench) -> None:
        bench.agent.free_idle_models("only 100 MB of memory are free")
        while (report := (await bench.next("replica")).replica).state != common_pb2.REPLICA_STATE_UNLOADING:
            pass
        assert report.detail == "makes way for the PC's owner: only 100 MB of memory are free"

    play(scenario)
