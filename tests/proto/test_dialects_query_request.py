"""Mirrors chorus_proto/dialects/query_request.py."""

from __future__ import annotations

import json

import pytest

from chorus_proto.dialects.query_request import ParsedQuery, parse_query
from chorus_proto.errors import ClusterError, InvalidRequest, UnknownParameter
from chorus_proto.generation import Generation, Message
from chorus_proto.ids import RequestId
from chorus_proto.values import AggregateStrategy


def query(**fields: object) -> ParsedQuery:
    return parse_query(json.dumps(fields).encode(), request_id=RequestId("b" * 24), within_s=60)


def test_a_prompt_alone_asks_everybody_and_takes_the_first_answer() -> None:
    parsed = query(prompt="hi")
    assert parsed.prompt == "hi" and not parsed.stream
    assert parsed.ask.strategy is AggregateStrategy.FIRST
    assert (parsed.ask.nodes, parsed.ask.model, parsed.ask.quorum, parsed.ask.within_s) == ((), None, None, 60)
    assert Generation.decoded(parsed.ask.generation).messages == (Message(role="user", content="hi"),)


def test_every_field_reaches_the_ask() -> None:
    parsed = query(
        prompt="hi",
        strategy="vote",
        model="tiny:1b",
        nodes=["attic-pc"],
        max_tokens=5,
        temperature=0,
        system="be brief",
        timeout_s=2.5,
        quorum=2,
        seed=1,
        top_p=0.5,
        stream=True,
    )
    ask, generation = parsed.ask, Generation.decoded(parsed.ask.generation)
    assert parsed.stream and ask.strategy is AggregateStrategy.VOTE and ask.model == "tiny:1b"
    assert (ask.nodes, ask.max_tokens, ask.within_s, ask.quorum) == (("attic-pc",), 5, 2.5, 2)
    assert generation.messages and generation.messages[0] == Message(role="system", content="be brief")
    assert (generation.temperature, generation.seed, generation.top_p) == (0, 1, 0.5)


def test_a_council_is_asked_by_its_name_alone() -> None:
    ask = query(prompt="hi", model="council/fast3", timeout_s=5).ask
    assert (ask.council, ask.model) == ("council/fast3", None)
    for more in ({"strategy": "first"}, {"quorum": 1}, {"nodes": ["attic-pc"]}):
        with pytest.raises(InvalidRequest) as caught:
            query(prompt="hi", model="council/fast3", **more)
        assert caught.value.param == "model"


def test_nobody_may_ask_for_more_time_than_the_limit() -> None:
    assert query(prompt="hi", timeout_s=3600).ask.within_s == 60


@pytest.mark.parametrize(
    ("fields", "param", "error"),
    [
        ({}, "prompt", InvalidRequest),
        ({"prompt": ""}, "prompt", InvalidRequest),
        ({"prompt": 5}, "prompt", InvalidRequest),
        ({"prompt": "a", "strategy": "best"}, "strategy", InvalidRequest),
        ({"prompt": "a", "nodes": "attic"}, "nodes", InvalidRequest),
        ({"prompt": "a", "nodes": [""]}, "nodes[0]", InvalidRequest),
        ({"prompt": "a", "timeout_s": 0}, "timeout_s", InvalidRequest),
        ({"prompt": "a", "quorum": 0}, "quorum", InvalidRequest),
        ({"prompt": "a", "model": "a\nb"}, "model", InvalidRequest),
        ({"prompt": "a", "promt": "b"}, "promt", UnknownParameter),
    ],
    ids=str,
)
def test_a_bad_field_is_named(fields: dict[str, object], param: str, error: type[ClusterError]) -> None:
    with pytest.raises(error) as caught:
        query(**fields)
    assert caught.value.param == param
