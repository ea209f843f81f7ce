from __future__ import annotations

import random
from collections import Counter

import pytest

from chorus_proto.ids import ModelName, NodeId
from chorus_proto.values import RoutingStrategy
from chorus_server.rates import CONTEXT_SHARE, Speeds
from chorus_server.routing import NO_FREE_SLOT, Candidate, Costs, Decision, Held, Need, Router, promised_speed

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
    return Router().rank(RoutingStrategy.EXPECTED_FINISH, candidates, need)


def chosen(decision: Decision) -> str:
    assert decision.chosen is not None
    return decision.chosen.node_id


def taken(router: Router, strategy: RoutingStrategy, *candidates: Candidate) -> str:
    found = router.choose(strategy, candidates, ASK)
    assert found is not None
    return found.node_id


def order(decision: Decision) -> list[str]:
    return [ranked.candidate.node_id for ranked in decision.ranking]


@pytest.mark.parametrize("strategy", RoutingStrategy)
def test_only_a_replica_with_a_free_slot_is_chosen_and_the_full_ones_are_named(strategy: RoutingStrategy) -> None:
    fast_but_full = candidate("a", busy=4, decode=500.0)
    for affinity in "abcdefgh":
        decision = Router().rank(strategy, [fast_but_full, candidate("b")], ASK._replace(affinity=affinity))
        assert chosen(decision) == "b"
        assert decision.ranking[-1].candidate is fast_but_full
        assert decision.ranking[-1].reason == NO_FREE_SLOT


@pytest.mark.parametrize("strategy", RoutingStrategy)
def test_nothing_is_chosen_of_nothing_or_of_full_ones(strategy: RoutingStrategy) -> None:
    assert Router().rank(strategy, [], ASK) == Decision(None, (), strategy)
    assert Router().choose(strategy, [candidate("b", busy=4)], ASK) is None
    decision = Router().rank(strategy, [candidate("b", busy=4), candidate("a", slots=0)], ASK)
    assert decision.chosen is None
    assert order(decision) == ["a", "b"]


@pytest.mark.parametrize("strategy", sorted({*RoutingStrategy} - {RoutingStrategy.RANDOM, RoutingStrategy.STICKY}))
def test_a_tie_goes_to_the_smallest_node_id(strategy: RoutingStrategy) -> None:
    assert taken(Router(), strategy, candidate("c"), candidate("a"), candidate("b")) == "a"


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
    assert crowded_costs.prompt_s == pytest.approx(2.0)
    assert crowded_costs.stop_s == pytest.approx(3 * 2.0)


def test_the_cost_counts_the_first_token_most_and_the_reason_says_all_of_it() -> None:
    (ranked,) = finish(candidate("a")).ranking
    answer_s = 190 / 50 * (1 + CONTEXT_SHARE * (200 + 95))
    assert ranked.cost_s == pytest.approx(200 / 1000 + 0.1 * answer_s)
    assert ranked.reason == "wait 0.00 s + prompt 0.20 s, answer 3.83 s, delay of others 0.00 s"
    (ranked,) = finish(candidate("a"), need=ASK._replace(urgent=False)).ranking
    assert ranked.cost_s == pytest.approx(200 / 1000 + answer_s)


def test_background_work_goes_where_it_ends_first_and_people_where_they_begin_first() -> None:
    reader, writer = candidate("reader", prefill=2000.0, decode=25.0), candidate("writer", prefill=500.0, decode=40.0)
    need = Need(prompt_tokens=1000, expected_tokens=190)
    assert chosen(finish(reader, writer, need=need)) == "reader"
    assert chosen(finish(reader, writer, need=need._replace(urgent=False))) == "writer"


def test_measured_steps_tell_how_much_slower_a_batch_is() -> None:
    flat = Speeds(base_s=0.02, stream_s=0.0, context_s=0.0, prompt_base_s=0.0, prompt_token_s=0.001)
    steep = Speeds(base_s=0.0, stream_s=0.02, context_s=0.0, prompt_base_s=0.0, prompt_token_s=0.001)
    nodes = [candidate("a", busy=2)._replace(speeds=steep), candidate("b", busy=2)._replace(speeds=flat)]
    assert chosen(finish(*nodes)) == "b"


HELD = Held({1: 4000.0}, left_s=2.0)
LONG = Need(prompt_tokens=5000, expected_tokens=100)


def test_a_conversation_goes_on_where_its_past_is_cached() -> None:
    knows, idle = candidate("a", busy=1)._replace(incarnation=1), candidate("b", decode=60.0)._replace(incarnation=2)
    assert chosen(finish(knows, idle, need=LONG)) == "b"
    assert Router().rank(RoutingStrategy.EXPECTED_FINISH, [knows, idle], LONG, HELD).chosen == knows


def test_it_waits_for_a_full_node_that_knows_its_past_only_while_its_first_token_can_be_in_time() -> None:
    speeds = Speeds(base_s=0.001, stream_s=0.0, context_s=0.0, prompt_base_s=0.0, prompt_token_s=0.001)
    knows = candidate("a", slots=1, busy=1)._replace(incarnation=1, speeds=speeds)
    other = candidate("b")._replace(incarnation=2, speeds=speeds)
    router = Router()

    def choice(held: Held) -> Candidate | None:
        found = router.choose(RoutingStrategy.EXPECTED_FINISH, [knows, other], LONG, held)
        assert router.rank(RoutingStrategy.EXPECTED_FINISH, [knows, other], LONG, held).chosen == found
        return found

    assert choice(HELD) is None
    assert choice(HELD._replace(left_s=1.0)) == other
    assert choice(Held({1: 2000.0}, left_s=100.0)) == other


def test_a_replica_that_still_reads_long_prompts_gets_no_further_one() -> None:
    reading, other = candidate("a", decode=500.0)._replace(prompts_s=3.0), candidate("b")
    assert taken(Router(), RoutingStrategy.EXPECTED_FINISH, reading, other) == "b"
    assert Router().choose(RoutingStrategy.EXPECTED_FINISH, [reading], ASK) is None


def test_looking_and_choosing_agree() -> None:
    chance = random.Random(5)
    for _ in range(300):
        nodes = [
            candidate(
                f"n{number}",
                busy=chance.randrange(5),
                prefill=chance.choice([None, chance.uniform(50, 5000)]),
                decode=chance.choice([None, chance.uniform(5, 150)]),
                score=chance.uniform(10, 100),
            )._replace(
                incarnation=number,
                prompts_s=chance.choice([0.0, 0.0, 2.0]),
                weight=chance.choice([0.3, 1.0, 1.0, 4.0]),
            )
            for number in range(1, 6)
        ]
        need = Need(prompt_tokens=chance.randrange(10, 4000), urgent=chance.random() < 0.5)
        held = Held({chance.randrange(1, 6): chance.uniform(0, need.prompt_tokens)}, left_s=chance.uniform(0, 5))
        decision = Router().rank(RoutingStrategy.EXPECTED_FINISH, nodes, need, held)
        found = Router().choose(RoutingStrategy.EXPECTED_FINISH, nodes, need, held)
        assert found == decision.chosen
        if found is not None:
            open_ones = [one for one in decision.ranking if one.candidate.is_open]
            assert open_ones[0].candidate == found


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
    other = [one._replace(model=ModelName("other")) for one in nodes]

    def turn(*among: Candidate) -> str:
        router.rank(RoutingStrategy.ROUND_ROBIN, among, ASK)  # who only looks takes no turn
        return taken(router, RoutingStrategy.ROUND_ROBIN, *among)

    assert [turn(*nodes) for _ in range(4)] == ["a", "b", "c", "a"]
    assert turn(*other) == "a"
    assert turn(nodes[0], nodes[2]) == "c"
    assert turn(*nodes) == "a"


def test_a_refused_round_robin_is_nobodys_turn() -> None:
    router = Router()
    router.choose(RoutingStrategy.ROUND_ROBIN, [candidate("a", busy=4)], ASK)
    assert taken(router, RoutingStrategy.ROUND_ROBIN, candidate("a"), candidate("b")) == "a"


def test_least_connections_counts_running_and_waiting() -> None:
    nodes = [candidate("a", busy=2), candidate("b", busy=1, waiting=2), candidate("c", busy=1)]
    decision = Router().rank(RoutingStrategy.LEAST_CONNECTIONS, nodes, ASK)
    assert order(decision) == ["c", "a", "b"]
    assert decision.ranking[0].reason == "1 of 4 slots busy"


def test_random_is_even_and_repeats_with_its_seed() -> None:
    nodes = [candidate("a"), candidate("b"), candidate("c")]

    def run(seed: int) -> list[str]:
        router = Router(random.Random(seed))
        return [taken(router, RoutingStrategy.RANDOM, *nodes) for _ in range(3000)]

    assert run(1) == run(1) != run(2)
    assert all(900 < count < 1100 for count in Counter(run(3)).values())


def test_weighted_shares_follow_the_measured_speed_without_bursts() -> None:
    router = Router()
    nodes = [candidate("a", decode=50.0), candidate("b", decode=10.0), candidate("c", decode=10.0)]
    turns = [taken(router, RoutingStrategy.WEIGHTED, *nodes) for _ in range(70)]
    assert Counter(turns) == {"a": 50, "b": 10, "c": 10}
    assert "".join(turns[:7]) == "aabacaa"


def test_a_weight_counts_as_so_many_times_the_speed_under_every_strategy_that_looks_at_speed() -> None:
    router = Router()
    spared, usual = candidate("a", decode=50.0)._replace(weight=0.5), candidate("b", decode=50.0)
    turns = Counter(taken(router, RoutingStrategy.WEIGHTED, spared, usual) for _ in range(30))
    assert turns == {"a": 10, "b": 20}
    assert chosen(finish(candidate("a"), candidate("b"))) == "a"
    assert chosen(finish(spared, usual)) == "b"
    # It is spared, not forbidden: when the other one would take more than twice as long, it has its turn.
    assert chosen(finish(spared, candidate("b", decode=10.0, prefill=100.0))) == "a"


def test_weighted_shares_follow_the_score_while_nothing_is_measured() -> None:
    router = Router()
    nodes = [candidate("a", score=80, decode=None), candidate("b", score=60, decode=None)]
    turns = Counter(taken(router, RoutingStrategy.WEIGHTED, *nodes) for _ in range(1100))
    assert turns["a"] == 800


def sticky(affinity: str, *nodes: Candidate) -> Decision:
    return Router().rank(RoutingStrategy.STICKY, nodes, ASK._replace(affinity=affinity))


def test_sticky_keeps_an_affinity_on_its_node_whatever_the_load_and_spreads_affinities() -> None:
    nodes = [candidate("a"), candidate("b"), candidate("c")]
    homes = {f"user-{number}": chosen(sticky(f"user-{number}", *nodes)) for number in range(300)}
    assert all(70 < count < 130 for count in Counter(homes.values()).values())
    busy = [one._replace(slots_busy=3, decode_tokens_per_s=1.0) for one in nodes]
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
    full = [one._replace(slots_busy=4) if one.node_id == first else one for one in nodes]
    assert chosen(sticky("user", *full)) == second


def test_sticky_without_an_affinity_is_expected_finish() -> None:
    decision = Router().rank(RoutingStrategy.STICKY, [candidate("a", decode=5.0), candidate("b")], ASK)
    assert chosen(decision) == "b"
    assert decision.strategy is RoutingStrategy.STICKY
