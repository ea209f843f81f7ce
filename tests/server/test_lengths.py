from __future__ import annotations

from chorus_proto.ids import ModelName
from chorus_server.lengths import LATEST, USUAL_TOKENS, AnswerLengths

TINY = ModelName("tiny")


def test_an_answer_is_expected_to_be_as_long_as_the_median_of_the_latest() -> None:
    lengths = AnswerLengths()
    assert lengths.expected(TINY, background=False) == USUAL_TOKENS
    for tokens in (10, 20, 30, 40, 5000):
        lengths.saw(TINY, tokens, background=False)
    assert lengths.expected(TINY, background=False) == 30
    assert lengths.expected(TINY, background=False, limit=16) == 16
    assert lengths.expected(TINY, background=True) == USUAL_TOKENS
    for _ in range(LATEST):
        lengths.saw(TINY, 7, background=False)
    assert lengths.expected(TINY, background=False) == 7


def test_an_answer_of_nothing_is_expected_to_be_a_token() -> None:
    lengths = AnswerLengths()
    for _ in range(9):
        lengths.saw(TINY, 0, background=False)
    assert lengths.expected(TINY, background=False) == 1
