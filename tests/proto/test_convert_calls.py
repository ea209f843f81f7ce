"""Mirrors chorus_proto/convert_calls.py."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from chorus_proto.cluster import Call
from chorus_proto.convert_calls import of_submit, submit_message
from chorus_proto.coordinator_pb2 import Submit
from chorus_proto.ids import ModelName, RequestId
from chorus_proto.values import Dialect, Priority, RoutingStrategy

PLAIN = Call(
    request_id=RequestId("a" * 24),
    model=ModelName("tiny"),
    dialect=Dialect.TEXT,
    stream=False,
    generation=b"{}",
    prompt_tokens_estimate=1,
    within_s=30.0,
)
FULL = replace(
    PLAIN,
    dialect=Dialect.EMBEDDINGS,
    stream=True,
    max_tokens=5,
    queue_within_s=0.0,
    affinity="anna",
    node="attic",
    strategy=RoutingStrategy.STICKY,
    user="anna",
    priority=Priority.BATCH,
    digest="",
    standing_every_s=0.5,
    key_id="01234567",
)


@pytest.mark.parametrize("call", [PLAIN, FULL], ids=["plain", "full"])
def test_a_call_comes_out_of_the_wire_as_it_went_in(call: Call) -> None:
    assert of_submit(Submit.FromString(submit_message(call, 4096).SerializeToString())) == call


def test_the_full_call_says_something_in_every_field() -> None:
    assert [one.name for one in fields(Call) if getattr(FULL, one.name) is None] == []


@pytest.mark.parametrize("dialect", list(Dialect))
def test_every_dialect_crosses_the_wire(dialect: Dialect) -> None:
    assert of_submit(submit_message(replace(PLAIN, dialect=dialect), 1)).dialect is dialect
