from __future__ import annotations

import pytest

from chorus_server.fairness import Debts, job_tokens
from tests.support.clock import FakeClock


def debts(clock: FakeClock, **shares: float) -> Debts:
    return Debts(clock, half_life_s=100.0, shares=shares)


def test_a_debt_halves_with_each_half_life() -> None:
    clock = FakeClock()
    book = debts(clock)
    book.charge("ann", 800)
    clock.advance(300)
    assert book.of("ann") == pytest.approx(100)
    book.charge("ann", 50)
    assert book.of("ann") == pytest.approx(150)
    assert book.of("nobody") == 0


def test_debts_stay_right_over_years_without_overflow() -> None:
    clock = FakeClock()
    book = debts(clock)
    for _ in range(50):
        clock.advance(86_400 * 365)
        book.charge("ann", 100)
    clock.advance(100)
    assert book.of("ann") == pytest.approx(50)


def test_a_larger_share_makes_the_same_tokens_weigh_less() -> None:
    book = debts(FakeClock(), ann=4.0)
    book.charge("ann", 400)
    book.charge("bob", 400)
    assert (book.of("ann"), book.of("bob")) == (100, 400)
    assert book.job_of("ann") == book.job_of("bob") / 4


def test_a_prompt_weighs_a_tenth_of_an_answer() -> None:
    assert job_tokens(1000, 50) == 150


def test_tokens_that_were_not_used_are_given_back_and_no_debt_turns_negative() -> None:
    book = debts(FakeClock())
    book.charge("ann", 100)
    book.correct("ann", -60)
    assert book.of("ann") == 40
    book.correct("ann", -60)
    assert book.of("ann") == 0


def test_who_comes_back_has_saved_up_nothing() -> None:
    book = debts(FakeClock())
    book.charge("ann", 5000)
    book.charge("ann", 100)
    book.join("bob")
    assert book.of("bob") == 5000


def test_who_comes_back_pays_one_of_its_jobs_at_most_for_what_it_used_before() -> None:
    book = debts(FakeClock())
    for user, tokens in (("ann", 3000), ("ann", 3000), ("bob", 100), ("ann", 40)):
        book.join(user)
        book.charge(user, tokens)
    assert book.of("ann") == 6040
    book.correct("ann", 20)
    book.join("ann")
    assert book.of("ann") == 6000 + 60


def test_users_who_owe_nothing_any_more_are_forgotten() -> None:
    clock = FakeClock()
    book = debts(clock)
    for number in range(10_000):
        book.charge(f"user-{number}", 10)
    clock.advance(1000)
    book.charge("last", 10)
    assert len(book) == 1
