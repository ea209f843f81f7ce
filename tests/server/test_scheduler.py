"""Who is next, on replicas that the test fills and empties by hand."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

import pytest

from chorus_proto.errors import QueueFull
from chorus_proto.ids import ModelName, NodeId, RequestId
from chorus_proto.values import Priority, RoutingStrategy
from chorus_server.fairness import Debts
from chorus_server.line import by_turns
from chorus_server.rates import Speeds
from chorus_server.routing import Candidate, Need, Router
from chorus_server.scheduler import QueueRules, Scheduler
from chorus_server.tickets import Group, Ticket
from tests.support.clock import FakeClock
from tests.support.patience import granted_s

TINY = ModelName("tiny")


@dataclass
class Desk:
    """A scheduler over nodes with so many slots; `run` ends the oldest job and notes who is served next."""

    slots: dict[str, int] = field(default_factory=lambda: {"a": 1})
    limits: dict[str, int] = field(default_factory=dict[str, int])
    steps_s: dict[str, float] = field(default_factory=dict[str, float])
    """Of a token, by node; nodes that are not named take 10 ms."""
    background_share: float = 0.2
    target_s: float = 1e9
    clock: FakeClock = field(default_factory=FakeClock)

    def __post_init__(self) -> None:
        values = {"limit": 10_000, "model_limit": 10_000, "user_limit": 10_000, "bytes_limit": 1 << 30, **self.limits}
        rules = QueueRules(**values, background_share=self.background_share)
        self.debts = Debts(self.clock, half_life_s=300)
        self.scheduler = Scheduler(self, Router(), self.debts, self.clock, rules)
        self.running: list[tuple[Ticket, str]] = []
        self.served: list[Ticket] = []
        self.prompt_token_s = 0.0

    def candidates(self, group: Group) -> list[Candidate]:
        busy = Counter(node for _, node in self.running)
        return [
            Candidate(
                node_id=NodeId(node),
                node_name=node,
                model=group.model,
                slots=slots,
                slots_busy=busy[node],
                speeds=Speeds(self.steps_s.get(node, 0.01), 0.001, 0.0, 0.0, self.prompt_token_s),
            )
            for node, slots in self.slots.items()
            if group.node_id in (None, node)
        ]

    def seat(self, ticket: Ticket, candidate: Candidate, prompt_s: float) -> None:
        self.running.append((ticket, candidate.node_id))
        self.served.append(ticket)

    def come(
        self,
        user: str,
        priority: Priority = Priority.INTERACTIVE,
        *,
        node: str | None = None,
        answer_tokens: int = 100,
        prompt_tokens: int = 0,
        model: ModelName = TINY,
        size_bytes: int = 100,
    ) -> Ticket:
        now_s = self.clock.monotonic_s()
        ticket = Ticket(
            request_id=RequestId(user),
            user=user,
            priority=priority,
            group=Group(model=model, node_id=None if node is None else NodeId(node)),
            need=Need(prompt_tokens=prompt_tokens, expected_tokens=answer_tokens),
            strategy=RoutingStrategy.EXPECTED_FINISH,
            came_s=now_s,
            on_time_until_s=now_s + self.target_s,
            text=bytes(size_bytes),
        )
        self.scheduler.enter(ticket)
        self.scheduler.serve(model)
        if ticket not in self.served:
            try:
                self.scheduler.begin_to_wait(ticket)
            except QueueFull:
                self.scheduler.leave(ticket)
                raise
        return ticket

    def run(self, jobs: int, *, seconds: float = 0.0) -> list[str]:
        """The users who are served while so many jobs end."""
        before = len(self.served)
        for _ in range(jobs):
            self.clock.advance(seconds)
            ticket, _ = self.running.pop(0)
            self.scheduler.gave_back(ticket, ticket.expected_tokens)
            self.scheduler.serve()
        return [ticket.user for ticket in self.served[before:]]


def test_one_users_requests_are_served_in_their_order() -> None:
    desk = Desk()
    tickets = [desk.come("ann") for _ in range(20)]
    desk.run(20)
    assert desk.served == tickets


def test_a_light_user_waits_for_one_job_of_a_heavy_one_at_most() -> None:
    desk = Desk()
    for _ in range(200):
        desk.come("heavy")
    desk.run(20)
    for _ in range(10):
        desk.come("light")
        assert "light" in desk.run(2)
        desk.run(5)


def test_a_light_user_of_long_standing_is_not_set_behind_a_newcomer_with_many_requests() -> None:
    desk = Desk()
    for _ in range(30):  # light was alone until now, and has been given a lot
        desk.come("light")
        desk.run(1)
    for _ in range(200):
        desk.come("heavy")
    for _ in range(5):
        desk.come("light")
        assert "light" in desk.run(2)


def test_every_active_user_delays_a_light_one_by_one_job() -> None:
    desk = Desk()
    for user in ("one", "two", "three", "four"):
        for _ in range(50):
            desk.come(user)
    desk.run(23)
    desk.come("light")
    assert "light" in desk.run(5)


def test_who_asks_for_long_answers_gets_as_many_tokens_and_not_as_many_jobs() -> None:
    desk = Desk()
    for _ in range(300):
        desk.come("long", answer_tokens=400)
        desk.come("short", answer_tokens=100)
    counts = Counter(desk.run(100))
    assert 3.5 < counts["short"] / counts["long"] < 4.5


def test_all_slots_are_used_whoever_waits() -> None:
    desk = Desk(slots={"a": 3, "b": 2})
    for _ in range(9):
        desk.come("ann")
    assert Counter(node for _, node in desk.running) == {"a": 3, "b": 2}


def test_who_can_wait_for_one_node_only_does_not_hold_up_the_others() -> None:
    desk = Desk(slots={"a": 1, "b": 1})
    for _ in range(10):
        desk.come("ann", node="a")
    desk.come("ann", node="b")
    assert [ticket.group.node_id for ticket, _ in desk.running] == ["a", "b"]
    desk.come("ann", node="b")
    desk.come("bob")
    desk.running.reverse()
    assert desk.run(1) == ["bob"]


def test_background_work_gets_its_share_and_no_more_while_people_wait() -> None:
    desk = Desk(background_share=0.2)
    for _ in range(200):
        desk.come("ann")
        desk.come("night", Priority.BATCH)
    counts = Counter(desk.run(100))
    assert 18 <= counts["night"] <= 22


def test_background_work_has_every_slot_that_nobody_else_wants_and_pays_nothing_for_it_later() -> None:
    desk = Desk(background_share=0.2)
    for _ in range(100):
        desk.come("night", Priority.BATCH)
    assert desk.run(30) == ["night"] * 30
    for _ in range(100):
        desk.come("ann")
    assert 7 <= Counter(desk.run(40))["night"] <= 9


def test_background_work_that_fits_no_free_slot_does_not_take_them_all_later() -> None:
    desk = Desk(slots={"a": 1, "b": 0}, background_share=0.2)
    for _ in range(20):
        desk.come("night", Priority.BATCH, node="b")
    for _ in range(200):
        desk.come("ann")
    desk.run(100)
    desk.slots = {"a": 0, "b": 1}
    for _ in range(20):
        desk.come("ann", node="b")
    desk.run(1)
    assert Counter(desk.run(12))["night"] < 9


def test_late_requests_of_a_user_go_behind_those_that_can_still_begin_in_time() -> None:
    desk = Desk(target_s=2.0)
    desk.come("ann")
    late = desk.come("ann")
    desk.clock.advance(3)
    fresh = desk.come("ann")
    desk.run(2)
    assert desk.served[1:] == [fresh, late]


def test_who_waits_its_turn_is_not_late_however_long_the_jobs_are() -> None:
    desk = Desk(target_s=2.0)
    for _ in range(30):
        desk.come("heavy")
    desk.run(5, seconds=10.0)
    light = desk.come("light")
    desk.clock.advance(8)
    for _ in range(30):
        desk.come("heavy")
    assert not light.is_late(desk.clock.monotonic_s())
    assert desk.run(1, seconds=2.0) == ["light"]


def test_a_long_prompt_must_begin_sooner_to_be_in_time() -> None:
    desk = Desk(target_s=2.0)
    desk.prompt_token_s = 0.001
    desk.come("ann")
    short, long = desk.come("ann", prompt_tokens=100), desk.come("ann", prompt_tokens=1500)
    desk.clock.advance(0.6)
    now_s = desk.clock.monotonic_s()
    assert (short.is_late(now_s), long.is_late(now_s)) == (False, True)


def test_a_queue_is_bounded_for_the_hub_the_model_the_user_and_the_bytes_but_not_for_durable_work() -> None:
    for limits, asks in (
        ({"limit": 2}, [("ann", "tiny"), ("bob", "other")]),
        ({"model_limit": 1}, [("ann", "tiny")]),
        ({"user_limit": 1}, [("cid", "other")]),
        ({"bytes_limit": 150}, [("ann", "other")]),
    ):
        desk = Desk(slots={}, limits=limits)
        for user, model in asks:
            desk.come(user, model=ModelName(model))
        with pytest.raises(QueueFull):
            desk.come("cid")
        desk.come("cid", Priority.DURABLE)
        assert len(desk.scheduler) == len(asks) + 1


def test_a_request_that_leaves_makes_room_and_is_never_served() -> None:
    desk = Desk(limits={"limit": 1})
    desk.come("ann")
    waiting = desk.come("ann")
    desk.scheduler.leave(waiting)
    other = desk.come("bob")
    desk.run(1)
    assert desk.served[-1] is other
    assert len(desk.scheduler) == 0


def test_the_order_that_is_foretold_is_the_one_that_comes() -> None:
    desk = Desk()
    desk.come("warm up")
    for user, count in (("ann", 6), ("bob", 2), ("cid", 4)):
        for _ in range(count):
            desk.come(user)
    for _ in range(3):
        desk.come("night", Priority.BATCH)
    foretold = by_turns(desk.scheduler.tickets(TINY), desk.debts, background_share=0.2)
    desk.run(15)
    places = [foretold.index(ticket) for ticket in desk.served[1:]]
    assert max(abs(place - real) for real, place in enumerate(places)) <= 3


def test_how_many_are_ahead_counts_one_turn_of_each_user_for_each_of_ones_own() -> None:
    desk = Desk()
    desk.come("heavy")
    for _ in range(50):
        desk.come("heavy")
    desk.come("ann")
    assert desk.scheduler.last_place(TINY, None, after=1) == 3
    assert desk.scheduler.last_place(TINY, "ann") == 2
    assert desk.scheduler.last_place(TINY, "ann", after=1) == 2 + 2
    assert desk.scheduler.last_place(ModelName("other"), "ann", after=1) == 1


def test_ten_thousand_waiting_do_not_make_a_choice_slow() -> None:
    desk = Desk()
    for number in range(10_000):
        desk.come(f"user-{number % 50}")
    began_s = time.perf_counter()
    desk.run(200)
    assert (time.perf_counter() - began_s) / 200 < granted_s(0.01)


def test_a_slow_pcs_slot_stays_empty_while_a_fast_one_is_done_sooner_and_no_longer() -> None:
    desk = Desk(slots={"fast": 1, "slow": 1}, steps_s={"slow": 0.5})
    first, second = desk.come("ann"), desk.come("ben")
    assert desk.running == [(first, "fast")]
    again_s = desk.scheduler.serve()
    assert again_s is not None and again_s < 2, "nothing tells when the answer that runs grows longer than expected"
    desk.run(1)
    assert desk.running == [(second, "fast")]
    for number in range(60):
        desk.come(f"user {number}")
    assert [node for _, node in desk.running] == ["fast", "slow"], "the last of so many would be no sooner by waiting"


def test_who_may_wait_no_longer_takes_the_slow_slot() -> None:
    desk = Desk(slots={"fast": 1, "slow": 1}, steps_s={"slow": 0.5})
    desk.come("ann")
    waiting = desk.come("ben")
    assert waiting not in desk.served
    waiting.may_wait_until_s = desk.clock.monotonic_s() + 0.2
    desk.scheduler.serve()
    assert desk.running[-1] == (waiting, "slow")
