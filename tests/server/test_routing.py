from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest

from chorus_proto.ids import ModelName, NodeId
from chorus_proto.values import RoutingStrategy
from chorus_server.routing import NO_FREE_SLOT, Candidate, Costs, Decision, Need, Router, promised_speed

ASK = Need(prompt_tokens=200)


def candidate(
    node: str,
    *,
    slots: int = 4,
    busy: int = 0,
    score: float = 60.0,
    prefill: float | None = 1000.0,
    decode: float | None = 50.0,
    waiting: int = 0,
) -> Candidate:
    return Candidate(
        node_id=NodeId(node),
        node_name=f"{node}-pc",
        model=ModelName("tiny"),
        slots=slots,
        slots_busy=busy,
        waiting=waiting,
        score=score,
        prefill_tokens_per_s=prefill,
        decode_tokens_per_s=decode,
    )


def finish(*candidates: Candidate, need: Need = ASK) -> Decision:
    return Router().choose(RoutingStrategy.EXPECTED_FINISH, candidates, need)


def chosen(decision: Decision) -> str:
    assert decision.chosen is not None
    return decision.chosen.node_id


def order(decision: Decision) -> list[str]:
    return [ranked.candidate.node_id for ranked in decision.ranking]


@pytest.mark.parametrize("strategy", RoutingStrategy)
def test_only_a_replica_with_a_free_slot_is_chosen_and_the_full_ones_are_named(strategy: RoutingStrategy) -> None:
    fast_but_full = candidate("a", busy=4, decode=500.0)
    for affinity in "abcdefgh":
        decision = Router().choose(strategy, [fast_but_full, candidate("b")], replace(ASK, affinity=affinity))
        assert chosen(decision) == "b"
        assert decision.ranking[-1].candidate is fast_but_full
        assert decision.ranking[-1].reason == NO_FREE_SLOT


@pytest.mark.parametrize("strategy", RoutingStrategy)
def test_nothing_is_chosen_of_nothing_or_of_full_ones(strategy: RoutingStrategy) -> None:
    assert Router().choose(strategy, [], ASK) == Decision(None, (), strategy)
    decision = Router().choose(strategy, [candidate("b", busy=4), candidate("a", slots=0)], ASK)
    assert decision.chosen is None
    assert order(decision) == ["a", "b"]


@pytest.mark.parametrize("strategy", set(RoutingStrategy) - {RoutingStrategy.RANDOM, RoutingStrategy.STICKY})
def test_a_tie_goes_to_the_smallest_node_id(strategy: RoutingStrategy) -> None:
    assert chosen(Router().choose(strategy, [candidate("c"), candidate("a"), candidate("b")], ASK)) == "a"


def test_the_faster_node_wins_even_when_it_is_busier() -> None:
    assert chosen(finish(candidate("slow", decode=10.0, prefill=100.0), candidate("fast", busy=2))) == "fast"


def test_a_loaded_node_loses_to_an_equal_idle_one() -> None:
    assert chosen(finish(candidate("a", busy=1), candidate("b"))) == "b"


def test_a_long_prompt_goes_where_prompts_are_read_fast_and_a_long_answer_where_tokens_are_written_fast() -> None:
    reader, writer = candidate("reader", prefill=5000.0, decode=20.0), candidate("writer", prefill=100.0, decode=40.0)
    assert chosen(finish(reader, writer, need=Need(prompt_tokens=4000, expected_tokens=10))) == "reader"
    assert chosen(finish(reader, writer, need=Need(prompt_tokens=10, expected_tokens=400))) == "writer"


def test_reading_a_long_prompt_is_charged_for_every_stream_it_holds_up() -> None:
    crowded, alone = candidate("a", busy=3, prefill=1000.0), candidate("b", prefill=600.0, decode=45.0)
    decision = finish(crowded, alone, need=Need(prompt_tokens=2000, expected_tokens=1))
    costs = {ranked.candidate.node_id: ranked.because for ranked in decision.ranking}
    assert chosen(decision) == "b"
    crowded_costs = costs[NodeId("a")]
    assert isinstance(crowded_costs, Costs)
    assert crowded_costs.prefill_s == pytest.approx(2.0)
    assert crowded_costs.imposed_s > 3 * 2.0


def test_the_cost_is_the_sum_of_its_parts_and_the_reason_says_them() -> None:
    (ranked,) = finish(candidate("a")).ranking
    assert ranked.cost_s == pytest.approx(200 / 1000 + 190 / 50)
    assert ranked.reason == "wait 0.00 s + prompt 0.20 s + answer 3.80 s + delay of others 0.00 s"


def test_requests_already_waiting_for_the_replica_count() -> None:
    assert chosen(finish(candidate("a", slots=1, waiting=2), candidate("b", slots=1, decode=40.0))) == "b"


def test_without_measurements_the_score_decides() -> None:
    unknown = [candidate(f"n{score}", score=score, prefill=None, decode=None) for score in (30, 95, 60)]
    assert order(finish(*unknown)) == ["n95", "n60", "n30"]


def test_an_unmeasured_node_is_judged_by_how_measured_ones_compare_with_their_score() -> None:
    measured = candidate("measured", score=60, prefill=100_000.0, decode=1000.0)
    weaker = candidate("a-weaker", score=50, prefill=None, decode=None)
    stronger = candidate("stronger", score=75, prefill=None, decode=None)
    assert order(finish(measured, weaker, stronger)) == ["stronger", "measured", "a-weaker"]


@pytest.mark.parametrize(("score", "speed"), [(60, 1.0), (80, 8 / 3), (100, 70 / 3)])
def test_the_promise_of_a_score_is_the_inverse_of_its_definition(score: float, speed: float) -> None:
    assert promised_speed(score) == pytest.approx(speed)


def test_round_robin_takes_turns_per_model_and_survives_nodes_that_come_and_go() -> None:
    router = Router()
    nodes = [candidate("a"), candidate("b"), candidate("c")]
    other = [replace(one, model=ModelName("other")) for one in nodes]

    def turn(*among: Candidate) -> str:
        return chosen(router.choose(RoutingStrategy.ROUND_ROBIN, among, ASK))

    assert [turn(*nodes) for _ in range(4)] == ["a", "b", "c", "a"]
    assert turn(*other) == "a"
    assert turn(nodes[0], nodes[2]) == "c"
    assert turn(*nodes) == "a"


def test_a_refused_round_robin_is_nobodys_turn() -> None:
    router = Router()
    router.choose(RoutingStrategy.ROUND_ROBIN, [candidate("a", busy=4)], ASK)
    assert chosen(router.choose(RoutingStrategy.ROUND_ROBIN, [candidate("a"), candidate("b")], ASK)) == "a"


def test_least_connections_counts_running_and_waiting() -> None:
    nodes = [candidate("a", busy=2), candidate("b", busy=1, waiting=2), candidate("c", busy=1)]
    decision = Router().choose(RoutingStrategy.LEAST_CONNECTIONS, nodes, ASK)
    assert order(decision) == ["c", "a", "b"]
    assert decision.ranking[0].reason == "1 of 4 slots busy"


def test_random_is_even_and_repeats_with_its_seed() -> None:
    nodes = [candidate("a"), candidate("b"), candidate("c")]

    def run(seed: int) -> list[str]:
        router = Router(random.Random(seed))
        return [chosen(router.choose(RoutingStrategy.RANDOM, nodes, ASK)) for _ in range(3000)]

    assert run(1) == run(1) != run(2)
    assert all(900 < count < 1100 for count in Counter(run(3)).values())


def test_weighted_shares_follow_the_measured_speed_without_bursts() -> None:
    router = Router()
    nodes = [candidate("a", decode=50.0), candidate("b", decode=10.0), candidate("c", decode=10.0)]
    turns = [chosen(router.choose(RoutingStrategy.WEIGHTED, nodes, ASK)) for _ in range(70)]
    assert Counter(turns) == {"a": 50, "b": 10, "c": 10}
    assert "".join(turns[:7]) == "aabacaa"


def test_weighted_shares_follow_the_score_while_nothing_is_measured() -> None:
    router = Router()
    nodes = [candidate("a", score=80, decode=None), candidate("b", score=60, decode=None)]
    turns = Counter(chosen(router.choose(RoutingStrategy.WEIGHTED, nodes, ASK)) for _ in range(1100))
    assert turns["a"] == 800


def sticky(affinity: str, *nodes: Candidate) -> Decision:
    return Router().choose(RoutingStrategy.STICKY, nodes, replace(ASK, affinity=affinity))


def test_sticky_keeps_an_affinity_on_its_node_whatever_the_load_and_spreads_affinities() -> None:
    nodes = [candidate("a"), candidate("b"), candidate("c")]
    homes = {f"user-{number}": chosen(sticky(f"user-{number}", *nodes)) for number in range(300)}
    assert all(70 < count < 130 for count in Counter(homes.values()).values())
    busy = [replace(one, slots_busy=3, decode_tokens_per_s=1.0) for one in nodes]
    assert all(chosen(sticky(user, *busy)) == home for user, home in homes.items())


def test_a_node_that_goes_moves_only_the_affinities_it_had() -> None:
    nodes = [candidate("a"), candidate("b"), candidate("c")]
    for number in range(100):
        home = chosen(sticky(f"user-{number}", *nodes))
        after = chosen(sticky(f"user-{number}", nodes[0], nodes[1]))
        assert after == home or home == "c"


def test_when_the_affinitys_node_is_full_the_next_in_its_own_order_takes_it() -> None:
    nodes = [candidate("a"), candidate("b"), candidate("c")]
    first, second, _ = order(sticky("user", *nodes))
    full = [replace(one, slots_busy=4) if one.node_id == first else one for one in nodes]
    assert chosen(sticky("user", *full)) == second


def test_sticky_without_an_affinity_is_expected_finish() -> None:
    decision = Router().choose(RoutingStrategy.STICKY, [candidate("a", decode=5.0), candidate("b")], ASK)
    assert chosen(decision) == "b"
    assert decision.strategy is RoutingStrategy.STICKY
