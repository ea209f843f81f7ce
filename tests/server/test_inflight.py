from __future__ import annotations

import pytest

from chorus_server.inflight import InFlight


def begun(*numbers: int, prompt_s: float = 1.0, now_s: float = 0.0) -> InFlight:
    books = InFlight()
    for number in numbers:
        books.begin(number, prompt_tokens=100, expected_tokens=50, prompt_s=prompt_s, now_s=now_s)
    return books


def test_prompts_are_read_one_after_the_other_until_their_first_token() -> None:
    books = begun(1, 2)
    assert books.prompts_s(0.5) == 1.5
    books.wrote(2, 1, 0.6)
    assert books.prompts_s(0.6) == pytest.approx(0.4)
    books.wrote(1, 1, 0.7)
    assert books.prompts_s(0.7) == 0
    assert begun(3).prompts_s(5.0) == 0


def test_a_prompt_whose_request_left_is_read_no_more() -> None:
    books = begun(1, 2)
    books.end(2, 0.1)
    assert books.prompts_s(0.1) == pytest.approx(0.9)
    books.end(1, 0.2)
    assert (len(books), books.prompts_s(0.2)) == (0, 0)


def test_what_is_in_the_contexts_and_what_is_left_to_write_follow_the_tokens() -> None:
    books = begun(1, 2)
    assert (books.context_tokens, books.tokens_left) == (200, 100)
    books.wrote(1, 30, 1.0)
    assert (books.context_tokens, books.tokens_left) == (230, 70)
    books.wrote(1, 70, 2.0)  # far longer than expected: it goes on for a while yet
    assert (books.context_tokens, books.tokens_left) == (300, 50 + 20)
    books.end(1, 3.0)
    assert (books.context_tokens, books.tokens_left) == (100, 50)
    books.end(2, 3.0)
    assert (books.context_tokens, books.tokens_left) == (0, 0)


def test_it_is_known_how_many_wrote_beside_a_stream_on_average() -> None:
    books = begun(1, now_s=0.0)
    books.wrote(1, 1, 2.0)
    books.begin(2, prompt_tokens=1, expected_tokens=1, prompt_s=0, now_s=4.0)
    books.begin(3, prompt_tokens=1, expected_tokens=1, prompt_s=0, now_s=8.0)
    assert books.end(1, 10.0) == pytest.approx((2 * 1 + 4 * 2 + 2 * 3) / 8)
    assert books.end(3, 8.0 + 2.0) == pytest.approx(2.5, abs=0.5)
