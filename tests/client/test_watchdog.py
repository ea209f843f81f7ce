from __future__ import annotations

import pytest

from chorus_client.watchdog import Hung, SharedEngine, Waiting, Watchdog
from chorus_proto.generation import Done


def silent_until(watchdog: Watchdog, began_s: float) -> float:
    """The first whole second after `began_s` at which the verdict is hung."""
    return next(second for second in range(2000) if isinstance(watchdog.verdict(began_s + second), Hung))


def test_a_prompt_may_take_fifteen_seconds_and_four_times_its_measured_speed() -> None:
    assert Watchdog(0, 1000, SharedEngine(100)).limit_s == 15 + 1000 / (0.25 * 100)
    assert silent_until(Watchdog(50, 1000, SharedEngine(100)), 50) == 55


def test_the_limit_to_the_first_token_ends_at_ten_minutes() -> None:
    assert Watchdog(0, 1_000_000, SharedEngine(5)).limit_s == 600


def test_without_a_measured_rate_a_weak_cpu_is_assumed() -> None:
    assert Watchdog(0, 100).limit_s == 15 + 100 / 5


def test_a_slow_prefill_that_shows_progress_is_never_called_hung() -> None:
    watchdog = Watchdog(0, 20_000, SharedEngine(1000))
    for step in range(1, 4001):
        now_s = step * 1.0
        assert isinstance(watchdog.verdict(now_s), Waiting)
        watchdog.prefilled(step * 5, 20_000, now_s)
    assert isinstance(watchdog.verdict(4000), Waiting)


def test_progress_that_repeats_the_same_number_is_no_sign_of_life() -> None:
    watchdog = Watchdog(0, 100, SharedEngine(100))
    watchdog.prefilled(50, 100, 1)
    for second in range(2, 40):
        watchdog.prefilled(50, 100, second)
    verdict = watchdog.verdict(40)
    assert isinstance(verdict, Hung)
    assert "50 of 100 prompt tokens" in verdict.reason


def test_a_fast_engine_that_stops_between_tokens_is_hung_after_ten_seconds() -> None:
    watchdog = Watchdog(0, 10, SharedEngine(1000))
    for step in range(50):
        watchdog.produced(0.1 + step * 0.02)
    assert silent_until(watchdog, 1.08) == 10
    verdict = watchdog.verdict(12)
    assert verdict == Hung(reason="no further token after 50: silent for 11 s, 10 s are allowed")


def test_a_slow_engine_gets_twenty_of_its_gaps_and_never_more_than_a_minute() -> None:
    slow = Watchdog(0, 10)
    for step in range(1, 200):
        slow.produced(step * 2.0)
    assert slow.limit_s == pytest.approx(40, rel=0.01)
    slower = Watchdog(0, 10)
    for step in range(1, 200):
        slower.produced(step * 8.0)
    assert slower.limit_s == 60


def test_after_the_first_token_of_a_slow_engine_the_second_may_be_as_slow() -> None:
    watchdog = Watchdog(0, 10)
    watchdog.produced(14)
    assert isinstance(watchdog.verdict(14 + 45), Waiting)


def test_tokens_that_come_in_one_piece_share_their_gap() -> None:
    one_by_one, together = Watchdog(0, 10), Watchdog(0, 10)
    for step in range(1, 101):
        one_by_one.produced(step * 1.0)
    together.produced(1)
    for step in range(1, 12):
        together.produced(1 + step * 9.0, tokens=9)
    assert together.limit_s == pytest.approx(one_by_one.limit_s, rel=0.01)


def test_an_empty_piece_is_no_sign_of_life() -> None:
    watchdog = Watchdog(0, 10, SharedEngine(1000))
    watchdog.produced(1)
    watchdog.produced(20, tokens=0)
    assert isinstance(watchdog.verdict(22), Hung)


def test_the_owner_is_told_when_to_look_again() -> None:
    watchdog = Watchdog(100, 0)
    verdict = watchdog.verdict(104)
    assert verdict == Waiting(due_in_s=11)
    assert isinstance(watchdog.verdict(115), Hung)


def test_what_the_engine_tells_of_the_prompt_replaces_the_estimate() -> None:
    watchdog = Watchdog(0, 10_000, SharedEngine(100))
    watchdog.prefilled(0, 50, 3)
    assert watchdog.limit_s == 15 + 50 / 25
    assert watchdog.verdict(13) == Waiting(due_in_s=7)


def test_cached_tokens_of_the_prompt_need_no_time() -> None:
    watchdog = Watchdog(0, 10_000, SharedEngine(100))
    watchdog.prefilled(9_000, 10_000, 1)
    assert watchdog.limit_s == 15 + 1_000 / 25


def test_time_in_which_nobody_asked_the_engine_is_no_silence() -> None:
    watchdog = Watchdog(0, 10, SharedEngine(1000))
    watchdog.produced(1)
    watchdog.unasked(99)
    assert isinstance(watchdog.verdict(100 + 19), Waiting)
    assert isinstance(watchdog.verdict(100 + 20), Hung)


def test_an_excuse_for_the_past_takes_nothing_back() -> None:
    watchdog = Watchdog(0, 10, SharedEngine(1000))
    for step in range(100):
        watchdog.produced(step * 0.1)
    watchdog.excused(1)
    verdict = watchdog.verdict(10)
    assert isinstance(verdict, Waiting)
    assert verdict.due_in_s == pytest.approx(9.9)


def beside(engine: SharedEngine, *prompts: int) -> list[Watchdog]:
    watchdogs = [Watchdog(0, tokens, engine) for tokens in prompts]
    for watchdog in watchdogs:
        watchdog.joins()
    return watchdogs


def test_who_decodes_waits_for_a_batch_of_another_ones_prompt() -> None:
    decoding, prompting = beside(SharedEngine(100), 10, 8000)
    for step in range(1, 100):
        decoding.produced(step * 0.01)
    assert decoding.limit_s == 10 + 2048 / 25
    prompting.prefilled(7_900, 8_000, 80)
    assert decoding.limit_s == 10 + 100 / 25


def test_prompts_that_are_computed_together_take_the_time_of_all() -> None:
    first, second = beside(SharedEngine(100), 1000, 500)
    assert first.limit_s == second.limit_s == 15 + 1500 / 25


def test_the_others_silence_begins_anew_when_a_prompt_is_done() -> None:
    decoding, prompting = beside(SharedEngine(100), 10, 1000)
    decoding.produced(1)
    assert isinstance(decoding.verdict(40), Waiting)
    prompting.produced(40)
    assert decoding.limit_s == 20
    assert isinstance(decoding.verdict(59), Waiting)
    assert isinstance(decoding.verdict(60), Hung)


def test_a_prompt_that_was_cancelled_is_still_waited_for_to_the_end_of_its_batch() -> None:
    decoding, prompting = beside(SharedEngine(100), 10, 8000)
    for step in range(1, 100):
        decoding.produced(step * 0.01)
    prompting.leaves(5)
    assert isinstance(decoding.verdict(5 + 81 + 9), Waiting)
    assert isinstance(decoding.verdict(5 + 82 + 10), Hung)
    assert prompting.engine.watchdogs == {decoding}


def test_the_rate_of_prompts_follows_what_is_measured() -> None:
    engine = SharedEngine()
    engine.measured(Done(finish_reason="stop"))
    assert engine.prefill_tokens_per_s is None
    engine.measured(Done(finish_reason="stop", prefill_tokens_per_s=100))
    assert engine.prefill_tokens_per_s == 100
    engine.measured(Done(finish_reason="stop", prefill_tokens_per_s=200))
    assert engine.prefill_tokens_per_s == 120
