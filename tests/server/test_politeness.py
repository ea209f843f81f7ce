"""Nodes that yield to their owner or sleep, through the real coordinator: no request is lost for it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from chorus_proto.errors import InvalidRequest, ModelNotFound, NodeLost, NoReplica, QueueTimeout
from chorus_proto.ids import ModelName
from chorus_proto.values import Courtesy, NodeState, ReplicaState
from chorus_server.coordinator import Coordinator
from chorus_server.events import Event, NodeChanged
from chorus_server.magic_packet import magic_packet
from tests.server.test_council import ask_for, events_of, last
from tests.server.test_dispatch import call_for, play, text_of
from tests.support.clock import FakeClock
from tests.support.fake_node import FakeNode, hello_of

MAC = "1c:69:7a:00:00:01"
PAUSE = Courtesy(paused=True, reason="its owner is at the keyboard")


def node_named(coordinator: Coordinator, clock: FakeClock, name: str, *, mac: str = MAC) -> FakeNode:
    return FakeNode(coordinator, clock, name, hello=replace(hello_of(name), mac_addresses=(mac,)))


def asking(coordinator: Coordinator, **more: object) -> asyncio.Task[str]:
    return asyncio.create_task(text_of(coordinator.submit(call_for(**more))))  # pyright: ignore[reportArgumentType]  # names checked by call_for


async def serve(node: FakeNode, text: str = "served") -> None:
    node.finish((await node.next_execute()).execution_id, text)


async def sweep(coordinator: Coordinator) -> None:
    coordinator._sweep()  # pyright: ignore[reportPrivateUsage]  # its task would wait on the real clock
    for _ in range(5):
        await asyncio.sleep(0)


@contextmanager
def ear() -> Generator[socket.socket]:
    """Where the packets go."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.settimeout(0)
        yield listener


def waking(listener: socket.socket) -> dict[str, object]:
    return {"wake_address": "127.0.0.1", "wake_port": listener.getsockname()[1]}


async def packet(listener: socket.socket) -> bytes:
    listener.settimeout(5)
    return await asyncio.to_thread(listener.recv, 2048)


def is_silent(listener: socket.socket) -> bool:
    listener.settimeout(0)
    try:
        listener.recv(2048)
    except BlockingIOError:
        return True
    return False


def test_what_runs_on_a_node_goes_on_when_its_owner_comes_and_new_work_goes_elsewhere(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        attic, cellar = node_named(coordinator, clock, "attic"), node_named(coordinator, clock, "cellar")
        attic.ready()
        first = asking(coordinator)
        running = await attic.next_execute()
        attic.say(running.execution_id, "begun ")
        cellar.ready()
        coordinator.courtesy_reported(attic.record, PAUSE)
        second = asking(coordinator)
        await serve(cellar)
        assert await second == "served"
        attic.finish(running.execution_id, "and ended")
        assert await first == "begun and ended"

    play(tmp_path, scenario)


def test_requests_that_only_a_paused_node_can_serve_wait_for_the_end_of_its_pause(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        attic = node_named(coordinator, clock, "attic")
        attic.ready()
        coordinator.courtesy_reported(attic.record, PAUSE)
        answer = asking(coordinator)
        await sweep(coordinator)
        assert not answer.done()
        coordinator.courtesy_reported(attic.record, Courtesy())
        await serve(attic)
        assert await answer == "served"

    play(tmp_path, scenario)


def test_who_waits_in_vain_for_a_paused_node_hears_why(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        attic = node_named(coordinator, clock, "attic")
        attic.ready()
        coordinator.courtesy_reported(attic.record, PAUSE)
        with pytest.raises(QueueTimeout, match="attic makes a polite pause: its owner is at the keyboard"):
            await asking(coordinator, queue_within_s=0.05)
        with pytest.raises(NoReplica, match="attic makes a polite pause"):
            await asking(coordinator, queue_within_s=0)

    play(tmp_path, scenario)


def test_fewer_slots_hold_for_new_requests_and_more_slots_serve_those_who_wait(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        attic = node_named(coordinator, clock, "attic")
        attic.ready(slots=4)
        coordinator.courtesy_reported(attic.record, Courtesy(slots=1, reason="other programs use 80 % of the CPU"))
        answers = [asking(coordinator) for _ in range(3)]
        await sweep(coordinator)
        state = await coordinator.state()
        assert state.nodes[0].replicas[0].slots_busy == 1
        assert state.nodes[0].courtesy.words == "polite, slots: 1: other programs use 80 % of the CPU"
        coordinator.courtesy_reported(attic.record, Courtesy())
        await sweep(coordinator)
        assert (await coordinator.state()).nodes[0].replicas[0].slots_busy == 3
        for _ in answers:
            await serve(attic)
        assert await asyncio.gather(*answers) == ["served"] * 3

    play(tmp_path, scenario)


def test_an_evicted_model_is_not_loaded_again_before_the_pause_is_over(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        attic = node_named(coordinator, clock, "attic")
        assert await attic.ordered() == ["load scripted"]
        attic.ready()
        coordinator.courtesy_reported(attic.record, PAUSE)
        attic.report(ReplicaState.UNLOADING)
        attic.report(ReplicaState.GONE)
        await sweep(coordinator)
        assert await attic.ordered() == []
        coordinator.courtesy_reported(attic.record, Courtesy())
        assert await attic.ordered() == ["load scripted"]

    play(tmp_path, scenario)


def test_a_question_to_all_leaves_a_paused_node_out_and_names_it_when_it_was_asked_for(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        attic, cellar = node_named(coordinator, clock, "attic"), node_named(coordinator, clock, "cellar")
        attic.ready()
        cellar.ready()
        coordinator.courtesy_reported(attic.record, PAUSE)
        everybody = asyncio.create_task(events_of(coordinator, ask_for()))
        await serve(cellar)
        assert [one.node_name for one in last(await everybody).members] == ["cellar"]
        both = asyncio.create_task(events_of(coordinator, ask_for(nodes=("attic", "cellar"))))
        await serve(cellar)
        errors = {one.node_name: one.error for one in last(await both).members}
        assert errors["cellar"] is None
        assert "attic makes a polite pause" in str(errors["attic"])

    play(tmp_path, scenario)


def test_a_request_leaves_a_node_that_falls_asleep_and_a_stream_that_began_ends_in_node_lost(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        attic, cellar = node_named(coordinator, clock, "attic"), node_named(coordinator, clock, "cellar")
        attic.ready(slots=2)
        begun, waiting = asking(coordinator), asking(coordinator)
        attic.say((await attic.next_execute()).execution_id, "begun ")
        await attic.next_execute()
        cellar.ready()
        await asyncio.sleep(0)
        coordinator.said_goodbye(attic.record, "its PC goes to sleep", sleeps=True)
        await serve(cellar)
        assert await waiting == "served"
        with pytest.raises(NodeLost, match="goes to sleep"):
            await begun
        attic.say(1, "a ghost")
        states = {node.name: node.state for node in (await coordinator.state()).nodes}
        assert states == {"attic": NodeState.ASLEEP, "cellar": NodeState.ALIVE}

    play(tmp_path, scenario)


def test_a_sleeping_node_is_woken_for_what_only_it_has_and_the_request_is_served_when_it_comes(tmp_path: Path) -> None:
    with ear() as listener:

        async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
            told: list[Event] = []
            coordinator.events.subscribe(told.append)
            attic = node_named(coordinator, clock, "attic")
            attic.ready()
            coordinator.said_goodbye(attic.record, "its PC goes to sleep", sleeps=True)
            assert any(isinstance(event, NodeChanged) and event.state is NodeState.ASLEEP for event in told)
            answer = asking(coordinator)
            assert await packet(listener) == magic_packet(MAC)
            clock.advance(9)
            await sweep(coordinator)
            assert is_silent(listener)
            clock.advance(1)
            await sweep(coordinator)
            assert await packet(listener) == magic_packet(MAC)
            attic = node_named(coordinator, clock, "attic")
            assert await attic.ordered() == ["load scripted"]
            attic.ready()
            await serve(attic)
            assert await answer == "served"

        play(tmp_path, scenario, **waking(listener))


def test_a_sleeping_node_is_let_alone_when_an_awake_one_can_serve(tmp_path: Path) -> None:
    with ear() as listener:

        async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
            attic, cellar = node_named(coordinator, clock, "attic"), node_named(coordinator, clock, "cellar")
            coordinator.said_goodbye(attic.record, "its PC goes to sleep", sleeps=True)
            cellar.ready()
            answers = [asking(coordinator) for _ in range(3)]
            for _ in answers:
                await serve(cellar)
            await asyncio.gather(*answers)
            assert is_silent(listener)

        play(tmp_path, scenario, **waking(listener))


def test_a_node_that_does_not_wake_up_ends_the_wait_with_its_name_and_is_then_let_alone(tmp_path: Path) -> None:
    with ear() as listener:

        async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
            attic = node_named(coordinator, clock, "attic")
            attic.ready()
            coordinator.said_goodbye(attic.record, "its PC goes to sleep", sleeps=True)
            answer = asking(coordinator, within_s=300)
            await packet(listener)
            clock.advance(20)
            await sweep(coordinator)
            assert not answer.done()
            clock.advance(70)
            await sweep(coordinator)
            with pytest.raises(NoReplica, match="attic is asleep and did not come when it was woken"):
                await answer
            while not is_silent(listener):
                pass
            with pytest.raises(NoReplica, match="did not come"):
                await asking(coordinator)
            assert is_silent(listener)

        play(tmp_path, scenario, **waking(listener))


def test_who_waits_too_short_hears_that_the_node_is_being_woken(tmp_path: Path) -> None:
    with ear() as listener:

        async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
            attic = node_named(coordinator, clock, "attic")
            coordinator.said_goodbye(attic.record, "its PC goes to sleep", sleeps=True)
            with pytest.raises(QueueTimeout, match="attic is asleep; it was woken 0 s ago"):
                await asking(coordinator, queue_within_s=0.05)

        play(tmp_path, scenario, **waking(listener))


def test_without_leave_to_wake_a_sleeping_node_is_no_node(tmp_path: Path) -> None:
    with ear() as listener:

        async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
            attic, cellar = (
                node_named(coordinator, clock, "attic"),
                FakeNode(coordinator, clock, "cellar", hello=hello_of("cellar", models=("other",))),
            )
            coordinator.said_goodbye(attic.record, "its PC goes to sleep", sleeps=True)
            cellar.ready(model="other")
            with pytest.raises(ModelNotFound, match="scripted"):
                await asking(coordinator)
            woken = await coordinator.wake("attic")
            assert woken.mac_addresses == (MAC,), "a person may"
            assert await packet(listener) == magic_packet(MAC)

        play(tmp_path, scenario, wake_nodes=False, **waking(listener))


def test_a_coordinator_that_was_restarted_knows_whom_it_may_wake(tmp_path: Path) -> None:
    with ear() as listener:

        async def first(coordinator: Coordinator, clock: FakeClock) -> None:
            attic, cellar, plain = (node_named(coordinator, clock, name) for name in ("attic", "cellar", "garage"))
            coordinator.said_goodbye(attic.record, "its PC goes to sleep", sleeps=True)
            coordinator.said_goodbye(cellar.record, "the agent stops")
            plain.record.address = "127.0.0.1:5"
            await coordinator.save()

        async def second(coordinator: Coordinator, clock: FakeClock) -> None:
            clock.advance(1000)
            await coordinator.remember()
            (attic,) = (await coordinator.state()).nodes
            assert (attic.name, attic.state, attic.mac_addresses) == ("attic", NodeState.ASLEEP, (MAC,))
            assert attic.heartbeat_age_s == pytest.approx(1000, abs=1)
            answer = asking(coordinator)
            assert await packet(listener) == magic_packet(MAC)
            node = node_named(coordinator, clock, "attic")
            node.ready()
            await serve(node)
            assert await answer == "served"
            assert len((await coordinator.state()).nodes) == 1

        async def much_later(coordinator: Coordinator, clock: FakeClock) -> None:
            clock.advance(31 * 86_400)
            await coordinator.remember()
            assert (await coordinator.state()).nodes == ()

        play(tmp_path, first, **waking(listener))
        play(tmp_path, second, **waking(listener))
        play(tmp_path, much_later, **waking(listener))


def test_waking_what_cannot_be_woken_is_refused(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        plain = FakeNode(coordinator, clock, "attic")
        coordinator.said_goodbye(plain.record, "its PC goes to sleep", sleeps=True)
        with pytest.raises(InvalidRequest, match="no address"):
            await coordinator.wake("attic")

    play(tmp_path, scenario)


def test_a_degraded_replica_is_routed_by_its_speed_of_now(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        attic, cellar = node_named(coordinator, clock, "attic"), node_named(coordinator, clock, "cellar")
        attic.ready()
        cellar.ready()
        model = ModelName("scripted")
        for node in (attic, cellar):
            first = asking(coordinator, node=node.hello.name)
            await serve(node)
            await first
        attic.ready(degraded=True, decode_tokens_per_s=1.0)
        assert attic.record.rates[model].decode_tokens_per_s == 1.0
        shown = {node.name: node.replicas[0] for node in (await coordinator.state()).nodes}
        assert shown["attic"].report.degraded
        assert shown["attic"].decode_tokens_per_s == 1.0
        for _ in range(3):
            answer = asking(coordinator)
            await serve(cellar)
            assert await answer == "served"

    play(tmp_path, scenario)
