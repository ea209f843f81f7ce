"""The speed that later ones are compared with."""

from __future__ import annotations

import pytest

from chorus_client.speed_record import SpeedRecord
from chorus_proto.generation import Done


def done(tokens_per_s: float | None, tokens: int = 20) -> Done:
    return Done(finish_reason="stop", prompt_tokens=1, completion_tokens=tokens, decode_tokens_per_s=tokens_per_s)


def test_nothing_is_known_before_the_first_measured_answer() -> None:
    record = SpeedRecord()
    record.learn(done(None))
    record.learn(done(500.0, tokens=7))
    assert record.tokens_per_s is None
    assert not record.is_back(done(1000.0))


def test_the_record_follows_slowly() -> None:
    record = SpeedRecord()
    record.learn(done(100.0))
    record.learn(done(50.0))
    assert record.tokens_per_s == pytest.approx(90.0)


def test_three_quarters_of_the_record_is_as_fast_as_before() -> None:
    record = SpeedRecord(100.0)
    assert record.is_back(done(75.0))
    assert not record.is_back(done(74.0))
    assert not record.is_back(done(100.0, tokens=3)), "of three tokens no speed can be told"
