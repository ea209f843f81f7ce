from __future__ import annotations

from chorus_proto.ids import NodeId
from chorus_server.transfer_choice import Sender, Taker, best_sender, best_taker


def sender(name: str, **more: object) -> Sender:
    return Sender(node_id=NodeId(name), name=name, **more)  # pyright: ignore[reportArgumentType]  # names checked by the dataclass


def taker(name: str, score: float, **more: object) -> Taker:
    return Taker(node_id=NodeId(name), score=score, **more)  # pyright: ignore[reportArgumentType]  # as above


def test_who_has_failed_least_sends_then_who_is_idle_then_the_fastest() -> None:
    failed, sending, busy, slow, fast = (
        sender("failed", failures=1),
        sender("sending", sending=1),
        sender("busy", requests=3),
        sender("slow", bytes_per_s=1e6),
        sender("fast", bytes_per_s=1e8),
    )
    everybody = [failed, sending, busy, slow, fast]
    order: list[str] = []
    while (best := best_sender(everybody)) is not None:
        order.append(best.name)
        everybody.remove(best)
    assert order == ["fast", "slow", "busy", "sending", "failed"]


def test_who_has_just_failed_comes_after_all_that_have_failed_as_often() -> None:
    both = [sender("a", failures=1), sender("b", failures=1, sending=5)]
    assert best_sender(both, not_first=NodeId("a")) == both[1]
    assert best_sender([both[0]], not_first=NodeId("a")) == both[0], "better than nobody"


def test_the_ablest_node_with_the_memory_takes_it() -> None:
    small, able, unknown = taker("small", 90, memory_bytes=8), taker("able", 50, memory_bytes=64), taker("unknown", 10)
    needed = {one.node_id: 32 for one in (small, able, unknown)}
    assert best_taker([small, able, unknown], needed_bytes=needed) == able
    assert best_taker([small, unknown], needed_bytes=needed) == unknown
    assert best_taker([small], needed_bytes=needed) is None


def test_a_node_that_receives_already_comes_last() -> None:
    busy, idle = taker("busy", 90, receiving=1), taker("idle", 10)
    assert best_taker([busy, idle], needed_bytes={}) == idle
